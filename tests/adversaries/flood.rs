//! Bytes to the broker as fast as it takes them.

use std::io::{BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use support::mqtt::Connect;
use support::stream::tcp;

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A client that was let in.
#[track_caller]
pub fn let_in(address: SocketAddr, connect: &Connect) -> TcpStream {
    let mut stream = tcp(address);
    stream.write_all(&connect.bytes()).expect("an open connection");
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a CONNACK");
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).expect("a whole CONNACK");
    assert_eq!((head[0], body[1]), (0x20, 0), "not let in");
    stream
}

/// Sends these packets and takes so many bytes of answers meanwhile.
#[track_caller]
pub fn flood(stream: &TcpStream, packets: impl Iterator<Item = Vec<u8>>, answer_bytes: usize) {
    thread::scope(|scope| {
        let answers = scope.spawn(move || take(stream, answer_bytes));
        send(stream, packets);
        answers.join().expect("the answers come in time");
    });
}

/// The same for packets that have no answer: the one to a PINGREQ behind them says that they were read.
#[track_caller]
pub fn flood_unanswered(stream: &TcpStream, packets: impl Iterator<Item = Vec<u8>>) {
    send(stream, packets.chain([PINGREQ.to_vec()]));
    take(stream, 2);
}

#[track_caller]
fn send(stream: &TcpStream, packets: impl Iterator<Item = Vec<u8>>) {
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    packets.for_each(|packet| out.write_all(&packet).expect("it is taken in time"));
    out.flush().expect("it is taken in time");
}

/// Reads so many bytes.
#[track_caller]
pub fn take(mut stream: &TcpStream, mut bytes: usize) {
    let mut buffer = [0; 16 << 10];
    while bytes > 0 {
        let room = bytes.min(buffer.len());
        let got = stream.read(&mut buffer[..room]).expect("an answer in time");
        assert!(got > 0, "closed with {bytes} bytes still due");
        bytes -= got;
    }
}
