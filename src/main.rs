//! The binary; everything is in the library.

fn main() -> std::process::ExitCode {
    millstream::main(std::env::args_os())
}
