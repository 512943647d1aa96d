//! Windows and priorities over a real connection.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::*;
use crate::loopback::Loopback;
use crate::stream::{Priority, Sender};
use quire_shared::protocol::{Ping, Request};

/// Whether `future` completes at once; nothing else runs meanwhile.
fn completes_now<T>(future: impl Future<Output = T>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Ready(_))
}

/// Raises the receive window of the server above its minimum, as for a body.
async fn with_a_wide_window(loopback: &Loopback) -> ActiveBody {
    let receiving = loopback.server_flow.begin_receiving();
    while loopback.client.stats().frame_rx.max_data == 0 {
        tokio::task::yield_now().await;
    }
    receiving
}

#[tokio::test]
async fn a_message_finds_room_where_bulk_has_filled_the_window() {
    let loopback = Loopback::connect().await;
    let _receiving = with_a_wide_window(&loopback).await;
    let flow = &loopback.client_flow;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (send, receive) = loopback.client.open_bi().await.unwrap();
        streams.push((Sender::new(send, flow), receive));
    }
    let [(bulk, _), (control, _), (more, _)] = &mut streams[..] else {
        unreachable!("three streams");
    };
    bulk.set_priority(Priority::Bulk);
    more.set_priority(Priority::Bulk);
    let body = Bytes::from(vec![0; 2 * usize::try_from(windows::SEND_WINDOW).unwrap()]);
    assert!(!completes_now(bulk.send_bytes(body)), "the window is full");
    assert!(completes_now(
        control.send::<Request>(&Ping::default().into())
    ));
    let bytes = Bytes::from_static(b"bulk");
    assert!(
        !completes_now(more.send_bytes(bytes)),
        "bulk has no more room"
    );
}

#[tokio::test]
async fn a_message_finds_room_where_the_window_has_become_smaller() {
    let loopback = Loopback::connect().await;
    let _receiving = with_a_wide_window(&loopback).await;
    let flow = &loopback.client_flow;
    let (send, _receive) = loopback.client.open_bi().await.unwrap();
    let mut bulk = Sender::new(send, flow);
    bulk.set_priority(Priority::Bulk);
    let large = 4 * windows::SEND_WINDOW;
    {
        let mut state = flow.0.state();
        state.send_window = large;
        state.send_window_peak = large;
        loopback.client.set_send_window(large);
    }
    let body = Bytes::from(vec![0; 2 * usize::try_from(large).unwrap()]);
    assert!(!completes_now(bulk.send_bytes(body)), "the window is full");
    flow.0.state().send_window = windows::SEND_WINDOW;
    loopback.client.set_send_window(windows::SEND_WINDOW);
    let (send, _receive) = loopback.client.open_bi().await.unwrap();
    let mut control = Sender::new(send, flow);
    assert!(completes_now(
        control.send::<Request>(&Ping::default().into())
    ));
}

#[tokio::test]
async fn bulk_never_writes_while_there_is_room_for_others() {
    let loopback = Loopback::connect().await;
    let flow = &loopback.client_flow;
    let is_exclusive = || flow.0.state.try_lock().is_none();
    assert!(flow.write_bulk(async { is_exclusive() }).await);
    assert!(flow.write_urgent(is_exclusive));
    assert!(!is_exclusive());
}

#[tokio::test]
async fn many_bodies_share_a_smaller_window_than_few() {
    let loopback = Loopback::connect().await;
    let flow = &loopback.client_flow;
    let window = || flow.0.state().receive_window.wanted();
    let few = window();
    assert_eq!(few, windows::receive_window_few(Side::Client));
    let many: Vec<_> = (0..64).map(|_| flow.begin_receiving()).collect();
    assert!(window() < few);
    let held = flow.hold();
    assert_eq!(
        window(),
        few,
        "others have room beyond a stream that isn't read"
    );
    drop(held);
    assert!(window() < few);
    drop(many);
    assert_eq!(window(), few);
}

#[tokio::test]
async fn without_a_budget_a_connection_has_the_minimum() {
    let Loopback { client, .. } = &Loopback::connect().await;
    let flow = ConnectionFlow::new(client.clone(), Side::Client, &WindowBudget::new(0));
    let _active = (flow.begin_receiving(), flow.begin_sending());
    let state = flow.0.state();
    assert_eq!(
        state.receive_window.wanted(),
        windows::receive_window_few(Side::Client)
    );
    assert_eq!(state.send_window, windows::SEND_WINDOW);
}

#[tokio::test]
async fn an_answer_finds_a_client_whose_address_changed_while_it_waited() {
    // Without keep-alives, only a probe of the client can tell the server the address.
    let both = Loopback::connect_relayed().await;
    both.talk(
        async |mut send, mut receive| {
            send.send::<Request>(&Ping::default().into()).await.unwrap();
            assert_eq!(receive.receive_length().await.unwrap(), 7);
        },
        async |mut send, mut receive| {
            receive.receive::<Request>().await.unwrap();
            both.rebind().await;
            let answer = Bytes::from_static(&[0, 0, 0, 7]);
            send.send_bytes(answer).await.unwrap();
            send.finish_and_wait().await.unwrap();
        },
    )
    .await;
    assert_eq!(both.server.stats().frame_tx.path_challenge, 2, "both paths");
}
