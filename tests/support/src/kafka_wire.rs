//! The few Kafka requests a script makes by hand: over TLS, which the librdkafka of these tests cannot
//! do, and wherever a code has to be seen as it came.

use crate::PATIENCE;
use crate::stream::Duplex;
use std::io;

/// A topic as a Metadata response names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The error code.
    pub error: i16,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// A connection on which nothing is said that the script does not say.
#[derive(Debug)]
pub struct KafkaWire<S> {
    stream: S,
    correlation_id: i32,
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("a script's strings are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl<S: Duplex> KafkaWire<S> {
    /// Nothing has been said yet.
    pub fn on(mut stream: S) -> KafkaWire<S> {
        stream.wait_at_most(PATIENCE).expect("an open socket");
        KafkaWire { stream, correlation_id: 0 }
    }

    /// Our end, as the server's log names it.
    pub fn peer(&self) -> String {
        self.stream.peer()
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// One request with a header of version 1, and the body of its answer.
    pub fn ask(&mut self, api_key: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.correlation_id += 1;
        let mut request = [api_key.to_be_bytes(), version.to_be_bytes()].concat();
        request.extend_from_slice(&self.correlation_id.to_be_bytes());
        put_string(&mut request, "script");
        request.extend_from_slice(body);
        let length = (request.len() as i32).to_be_bytes();
        self.stream.write_all(&[&length[..], &request].concat())?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer)?;
        assert_eq!(answer[..4], self.correlation_id.to_be_bytes(), "the answer to something else");
        Ok(answer.split_off(4))
    }

    /// SaslHandshake; the error code.
    pub fn sasl_handshake(&mut self, mechanism: &str) -> io::Result<i16> {
        let mut body = Vec::new();
        put_string(&mut body, mechanism);
        let answer = self.ask(17, 1, &body)?;
        Ok(Reader(&answer).i16())
    }

    /// SaslHandshake and SaslAuthenticate with PLAIN; the error code of the second.
    pub fn sasl_plain(&mut self, user: &str, password: &str) -> io::Result<i16> {
        assert_eq!(self.sasl_handshake("PLAIN")?, 0);
        let token = format!("\0{user}\0{password}");
        let mut body = (token.len() as i32).to_be_bytes().to_vec();
        body.extend_from_slice(token.as_bytes());
        let answer = self.ask(36, 0, &body)?;
        Ok(Reader(&answer).i16())
    }

    /// The ports of the brokers it tells of, and these topics, or all that may be seen.
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> io::Result<(Vec<i32>, Vec<Topic>)> {
        let count = topics.map_or(-1, |topics| topics.len() as i32);
        let mut body = count.to_be_bytes().to_vec();
        topics.into_iter().flatten().for_each(|topic| put_string(&mut body, topic));
        let answer = self.ask(3, 1, &body)?;
        let mut reader = Reader(&answer);
        let ports = reader.array(|reader| {
            reader.i32();
            reader.string();
            let port = reader.i32();
            reader.string();
            port
        });
        reader.i32();
        let topics = reader.array(|reader| {
            let (error, name) = (reader.i16(), reader.string());
            reader.take(1);
            let partitions = reader.array(|reader| {
                reader.take(10);
                reader.array(Reader::i32);
                reader.array(Reader::i32);
            });
            Topic { error, name, partitions: partitions.len() }
        });
        assert!(reader.0.is_empty(), "{:?} behind Metadata", reader.0);
        Ok((ports, topics))
    }

    /// Whether the server has closed, or closes now.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Reads what a well-behaved server wrote.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count);
        self.0 = left;
        taken
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// A null comes as an empty one.
    fn string(&mut self) -> String {
        let length = self.i16().max(0) as usize;
        String::from_utf8(self.take(length).to_vec()).expect("UTF-8")
    }

    fn array<T>(&mut self, mut one: impl FnMut(&mut Reader<'a>) -> T) -> Vec<T> {
        (0..self.i32().max(0)).map(|_| one(self)).collect()
    }
}
