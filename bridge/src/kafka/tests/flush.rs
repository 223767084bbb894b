//! Streams that hold back what is written until they are flushed, and call an end an error, as TLS does.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, FetchRequest, TopicName,
    create_topics_request::CreatableTopic,
    fetch_request::{FetchPartition, FetchTopic},
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::{text, with_broker};
use crate::kafka::Principal;

/// Takes everything at once, and gives it on when it is flushed and the valve is open; the first
/// poll of a flush never does it.
struct HoldsBack {
    inner: DuplexStream,
    held: Vec<u8>,
    has_waited: bool,
    valve: Arc<Mutex<Valve>>,
}

#[derive(Default)]
struct Valve {
    is_closed: bool,
    waiting: Option<Waker>,
}

impl Valve {
    fn open(&mut self) {
        self.is_closed = false;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for HoldsBack {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HoldsBack {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut valve = this.valve.lock();
        if valve.is_closed {
            valve.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(valve);
        if !std::mem::replace(&mut this.has_waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut this.inner).poll_write(cx, &this.held) {
            Poll::Ready(Ok(bytes)) => this.held.drain(..bytes),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        this.has_waited = !this.held.is_empty();
        Pin::new(this).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[test]
fn answers_are_flushed() {
    with_broker(async |broker| {
        let valve = Arc::new(Mutex::new(Valve::default()));
        let mut peer = broker.connect_over(Some(Principal::Anonymous { token: 0 }), |inner| HoldsBack {
            inner,
            held: Vec::new(),
            has_waited: false,
            valve: valve.clone(),
        });
        for _ in 0..3 {
            assert_eq!(peer.ask(0, &ApiVersionsRequest::default()).await.error_code, 0);
        }
        // Also while the next request waits for something else.
        let partition = FetchPartition::default().with_partition_max_bytes(1000);
        let asked = FetchTopic::default().with_topic(TopicName(text("t"))).with_partitions(vec![partition]);
        let fetch = FetchRequest::default().with_min_bytes(1).with_max_bytes(1000).with_max_wait_ms(300_000);
        let wanted = CreatableTopic::default().with_name(TopicName(text("t"))).with_num_partitions(1);
        let make = CreateTopicsRequest::default().with_topics(vec![wanted.with_replication_factor(1)]);
        assert_eq!(peer.ask(5, &make).await.topics[0].error_code, 0);
        peer.send(0, &ApiVersionsRequest::default()).await;
        peer.send(12, &fetch.with_topics(vec![asked])).await;
        assert_eq!(peer.receive::<ApiVersionsResponse>(0).await.error_code, 0);
    });
}

#[test]
fn a_flush_that_takes_long_holds_up_nothing_else() {
    with_broker(async |broker| {
        let valve = Arc::new(Mutex::new(Valve { is_closed: true, waiting: None }));
        let mut peer = broker.connect_over(Some(Principal::Anonymous { token: 0 }), |inner| HoldsBack {
            inner,
            held: Vec::new(),
            has_waited: false,
            valve: valve.clone(),
        });
        peer.send(0, &ApiVersionsRequest::default()).await;
        while valve.lock().waiting.is_none() {
            tokio::task::yield_now().await;
        }
        // Read and worked on all the same.
        let wanted = CreatableTopic::default().with_name(TopicName(text("t"))).with_num_partitions(1);
        let make = CreateTopicsRequest::default().with_topics(vec![wanted.with_replication_factor(1)]);
        peer.send(5, &make).await;
        while broker.bridge.topic("t").is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(broker.server.metrics().requests.load(Ordering::Relaxed), 2);
        valve.lock().open();
        assert_eq!(peer.receive_frame().await.0, 1);
        assert_eq!(peer.receive_frame().await.0, 2);
    });
}

/// Its end is an error, as that of a TLS client that closes its socket without close_notify.
struct EndsAbruptly(DuplexStream);

impl AsyncRead for EndsAbruptly {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for EndsAbruptly {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Takes no answer: its client has closed its half that reads.
struct HearsNothing(DuplexStream, Arc<AtomicBool>);

impl AsyncRead for HearsNothing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HearsNothing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.1.store(true, Ordering::Release);
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn what_a_client_asked_last_is_done_though_it_takes_no_answer() {
    with_broker(async |broker| {
        let told = Arc::new(AtomicBool::new(false));
        let over = |stream| HearsNothing(stream, told.clone());
        let mut peer = broker.connect_over(Some(Principal::Anonymous { token: 0 }), over);
        for name in ["t", "u"] {
            let wanted = CreatableTopic::default().with_name(TopicName(text(name))).with_num_partitions(1);
            let make = CreateTopicsRequest::default().with_topics(vec![wanted.with_replication_factor(1)]);
            peer.send(5, &make).await;
            // The first is answered, in vain, before the second comes.
            while !told.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
        }
        peer.hang_up().await.expect("it hung up between requests");
        assert!(broker.bridge.topic("u").is_some());
    });
}

#[test]
fn what_a_client_asked_last_is_done_though_its_end_is_an_error() {
    with_broker(async |broker| {
        let mut peer = broker.connect_over(Some(Principal::Anonymous { token: 0 }), EndsAbruptly);
        let wanted = CreatableTopic::default().with_name(TopicName(text("t"))).with_num_partitions(1);
        let make = CreateTopicsRequest::default().with_topics(vec![wanted.with_replication_factor(1)]);
        peer.send(5, &make).await;
        peer.hang_up().await.expect("it hung up between requests");
        assert!(broker.bridge.topic("t").is_some());
    });
}
