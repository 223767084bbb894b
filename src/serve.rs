//! Runs the broker until it is told to stop.

use std::{error::Error, io, sync::Arc};

use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use crate::{
    admin::{self, AdminState, Readiness, metrics::MetricSink},
    config::{Address, Config},
    logs,
};

/// Starts everything, says `ready`, and returns after SIGTERM or Ctrl-C.
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    logs::install(config.log_format, &config.log_level)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(serve(&config))?)
}

async fn serve(config: &Config) -> io::Result<()> {
    let stop = stop_signal()?;
    let state = Arc::new(AdminState::new());
    state.add_source(Box::new(build_info));
    for warning in config.warnings() {
        warn!("{warning}");
    }
    if let Some(hint) = config.how_to_open() {
        info!("{hint}");
    }
    let Some(listener) = bind("admin.http", &config.admin.http).await? else {
        stop.await;
        return Ok(());
    };
    let address = listener.local_addr()?;
    state.set_readiness(Readiness::Ready);
    info!(admin = %address, "ready");
    admin::serve(listener, state, stop).await;
    Ok(())
}

fn build_info(sink: &mut MetricSink) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    sink.gauge(
        "millstream_build_info",
        "The version that runs; always 1.",
        &version,
        1.0,
    );
}

async fn bind(key: &str, address: &Address) -> io::Result<Option<TcpListener>> {
    let Some(host_port) = address.host_port() else {
        return Ok(None);
    };
    let told =
        |error: io::Error| io::Error::new(error.kind(), format!("{key} = \"{address}\": {error}"));
    TcpListener::bind(host_port).await.map(Some).map_err(told)
}

/// Completes at SIGTERM or Ctrl-C; both are caught from here on.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
