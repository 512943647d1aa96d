//! Properties of the messages of delta transfers.

use super::messages::{digest, kind, path, precondition, put, reply, version};
use super::*;
use crate::chunks::{Chunk, ChunkId, ChunkParameters, PACKED_BYTES, PackedChunks};

/// A request for chunks, or one that sends what changed.
pub(super) fn request() -> impl Strategy<Value = Request> {
    let chunks = (path(), kind(), precondition());
    let chunks = chunks.prop_map(|(path, digest, precondition)| Chunks {
        path,
        digest,
        precondition,
    });
    let delta = (put(), version()).prop_map(|(put, base)| match put {
        Request::Put(put) => PutDelta { put, base }.into(),
        other => other,
    });
    prop_oneof![chunks.prop_map(Request::from), delta]
}

fn page() -> impl Strategy<Value = ChunkPage> {
    let parameters = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u32>());
    let parameters = parameters.prop_map(|(algorithm, min, average, max)| ChunkParameters {
        algorithm,
        min,
        average,
        max,
    });
    let head = (version(), any::<u64>(), parameters);
    let head = head.prop_map(|(version, size, parameters)| ChunkHead {
        version,
        size,
        parameters,
    });
    let chunk = any::<(u32, u64)>().prop_map(|(length, seed)| Chunk {
        length,
        id: ChunkId::of(&seed.to_be_bytes()),
    });
    let head = proptest::option::of(head);
    let end = proptest::option::of(digest());
    (head, vec(chunk, 0..4), end).prop_map(|(head, chunks, digest)| {
        let packed: PackedChunks = chunks.iter().copied().collect();
        assert_eq!(packed.len(), chunks.len());
        assert!(packed.iter().eq(chunks));
        ChunkPage {
            head,
            chunks: packed,
            digest,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_and_steps_survive_the_wire(
        page in reply(page()),
        step in any::<(bool, u64, u64)>(),
        key in 4_u16..,
    ) {
        check(&page);
        if let Reply::Ok(page) = page {
            check_unknown_key(&page, 0, key);
        }
        let (is_copy, offset, length) = step;
        let step = match is_copy {
            true => DeltaStep::Copy(CopyStep { offset, length }),
            false => DeltaStep::Data(DataStep { length }),
        };
        check(&step);
        check_unknown_key(&step, 2, key);
    }
}

// P12
#[test]
fn a_list_that_ends_within_a_chunk_is_malformed() {
    let page = |bytes: usize| {
        let mut cbor = Vec::new();
        let mut encoder = Encoder::new(&mut cbor);
        encoder.map(1).unwrap().u8(1).unwrap();
        encoder.bytes(&vec![1; bytes]).unwrap();
        decode::<ChunkPage>(&cbor)
    };
    assert_eq!(page(2 * PACKED_BYTES).unwrap().chunks.len(), 2);
    for bytes in [1, PACKED_BYTES - 1, PACKED_BYTES + 1] {
        assert_eq!(page(bytes), Err(DecodeError::Malformed));
    }
}
