//! Sizes that are small in a simulation, which has to come by many files and segments.

/// Bytes, of the product and of a simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    product_bytes: u64,
    #[cfg(any(test, feature = "sim"))]
    simulated_bytes: u64,
}

impl Size {
    pub(crate) const fn new(product_bytes: u64, _simulated_bytes: u64) -> Size {
        Size {
            product_bytes,
            #[cfg(any(test, feature = "sim"))]
            simulated_bytes: _simulated_bytes,
        }
    }

    /// The one in force.
    pub(crate) fn bytes(self) -> u64 {
        // Not by the feature alone: the binary that is tested is built with it, and is the product.
        #[cfg(any(test, feature = "sim"))]
        if cfg!(test) || crate::sim::is_simulated() {
            return self.simulated_bytes;
        }
        self.product_bytes
    }
}
