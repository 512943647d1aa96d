//! Trees on their way to a server that may answer in any way.

use std::fs;
use std::sync::{Arc, Mutex};

use quire_client::ClientError;
use quire_client::ErrorKind;
use quire_client::transfer::{self, StoreOptions, Transfer, TransferEvent, UploadJob};
use quire_shared::ErrorCode;
use quire_shared::protocol::{
    Attributes, Changed, Failure, Outcome, Put, PutItem, Reply, Request, Trailer,
};
use quire_transport::stream::{Receiver, Sender};

use quire_test_harness::fake::FakeConnection;

use crate::{path, version};

/// What a server receives, one item at a time.
async fn item(receiver: &mut Receiver) -> PutItem {
    let item = receiver.receive().await.unwrap();
    if let PutItem::File(Put {
        size: Some(mut rest),
        ..
    }) = item
    {
        while rest > 0 {
            let limit = usize::try_from(rest).unwrap();
            rest -= receiver.receive_bytes(limit).await.unwrap().unwrap().len() as u64;
        }
        receiver.receive::<Trailer>().await.unwrap();
    }
    item
}

async fn answer(sender: &mut Sender, index: u64, result: Result<(), ErrorCode>) {
    let result = match result {
        Ok(()) => Reply::Ok(Changed { version: version() }),
        Err(code) => Reply::Failed(Failure::new(code)),
    };
    let outcome = Outcome {
        index,
        result,
        existed: false,
    };
    sender.send(&Reply::Ok(outcome)).await.unwrap();
}

/// Stores `d`, in which there are `a`, `b` and `c`, to a server that answers as `script` does, and
/// gives what failed.
async fn store<F: Future<Output = ()>>(
    script: impl FnOnce(Sender, Receiver) -> F,
) -> (Arc<Transfer>, Vec<(String, String)>) {
    store_knowing(false, script).await
}

/// As [`store`]; with `are_new` the caller knows that there is no `d`.
async fn store_knowing<F: Future<Output = ()>>(
    are_new: bool,
    script: impl FnOnce(Sender, Receiver) -> F,
) -> (Arc<Transfer>, Vec<(String, String)>) {
    let pair = FakeConnection::open().await;
    let local = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(local.path().join(name), "abc").unwrap();
    }
    let failed = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&failed);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            log.lock()
                .unwrap()
                .push((name.to_string(), error.to_string()));
        }
    });
    let items = vec![UploadJob {
        from: local.path().to_owned(),
        to: path("d"),
    }];
    let options = StoreOptions {
        recursive: true,
        are_new,
        ..StoreOptions::default()
    };
    let serve = async {
        if !are_new {
            // What is there already is asked first.
            let (request, mut sender, _receiver) = pair.request().await;
            assert!(matches!(request, Request::Stat(_)), "{request:?}");
            let nothing = Reply::<Attributes>::Failed(Failure::new(ErrorCode::NOT_FOUND));
            sender.send(&nothing).await.unwrap();
            let _ = sender.finish();
        }
        let (request, sender, receiver) = pair.request().await;
        assert!(matches!(request, Request::PutMany(_)), "{request:?}");
        script(sender, receiver).await;
    };
    tokio::join!(
        transfer::store(&pair.client, items, options, &transfer),
        serve
    );
    let failed = failed.lock().unwrap().clone();
    (transfer, failed)
}

// P44
#[tokio::test]
async fn a_directory_comes_first_and_gets_its_attributes_after_all_outcomes() {
    let (transfer, failed) = store(|mut sender, mut receiver| async move {
        let first = item(&mut receiver).await;
        assert!(matches!(first, PutItem::Directory(_)), "{first:?}");
        for _ in 0..3 {
            let file = item(&mut receiver).await;
            assert!(matches!(file, PutItem::File(_)), "{file:?}");
        }
        for index in [3, 0, 1] {
            answer(&mut sender, index, Ok(())).await;
        }
        answer(&mut sender, 2, Err(ErrorCode::EXISTS)).await;
        let attributes = item(&mut receiver).await;
        assert!(
            matches!(attributes, PutItem::Attributes(_)),
            "{attributes:?}"
        );
        answer(&mut sender, 4, Ok(())).await;
        let last = item(&mut receiver).await;
        assert!(matches!(last, PutItem::Last(_)), "{last:?}");
        receiver.expect_end().await.unwrap();
        sender.finish_and_wait().await.unwrap();
    })
    .await;
    assert_eq!((transfer.files(), transfer.directories()), (2, 1));
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].1.contains("already exists"), "{failed:?}");
    assert_eq!(transfer.first_failure(), Some(ErrorKind::Conflict));
}

#[tokio::test]
async fn what_is_known_to_be_new_is_not_asked_for_again() {
    let (transfer, failed) = store_knowing(true, |mut sender, mut receiver| async move {
        for index in 0..4 {
            item(&mut receiver).await;
            answer(&mut sender, index, Ok(())).await;
        }
        item(&mut receiver).await;
        answer(&mut sender, 4, Ok(())).await;
        item(&mut receiver).await;
        sender.finish_and_wait().await.unwrap();
    })
    .await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!((transfer.files(), transfer.directories()), (3, 1));
}

#[tokio::test]
async fn what_goes_into_a_directory_that_is_refused_is_not_reported_one_by_one() {
    let (transfer, failed) = store(|mut sender, mut receiver| async move {
        for _ in 0..4 {
            item(&mut receiver).await;
        }
        answer(&mut sender, 0, Err(ErrorCode::NOT_DIRECTORY)).await;
        for index in 1..4 {
            answer(&mut sender, index, Err(ErrorCode::NOT_FOUND)).await;
        }
        let last = item(&mut receiver).await;
        assert!(matches!(last, PutItem::Last(_)), "{last:?}");
        sender.finish_and_wait().await.unwrap();
    })
    .await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].0, "/d");
    assert!(failed[0].1.ends_with("3 below it"), "{failed:?}");
    assert_eq!((transfer.files(), transfer.failed()), (0, 4));
}

// P6
#[tokio::test]
async fn answers_that_are_none_end_the_transfer_with_one_error() {
    let twice = |mut sender: Sender, mut receiver: Receiver| async move {
        item(&mut receiver).await;
        answer(&mut sender, 0, Ok(())).await;
        answer(&mut sender, 0, Ok(())).await;
        let _ = sender.finish_and_wait().await;
    };
    let (_, failed) = store(twice).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].1.contains("unexpected"), "{failed:?}");
    let early = |mut sender: Sender, mut receiver: Receiver| async move {
        item(&mut receiver).await;
        answer(&mut sender, 0, Ok(())).await;
        let _ = sender.finish_and_wait().await;
    };
    let (transfer, failed) = store(early).await;
    let expected = ("/d".to_owned(), ClientError::Truncated.to_string());
    assert_eq!(failed, [expected]);
    assert_eq!(transfer.first_failure(), Some(ErrorKind::Damaged));
    let reset = |mut sender: Sender, mut receiver: Receiver| async move {
        item(&mut receiver).await;
        sender.reset(ErrorCode::DISK);
    };
    let (_, failed) = store(reset).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
}
