//! A part of the manifest: every path of it stays beneath its root, and it encodes to itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::manifest::Manifest;
use pg_reseed::wire::listing;

fuzz_target!(|data: &[u8]| {
    let Ok(folders) = listing::decode(data) else {
        return;
    };
    let mut manifest = Manifest::default();
    for folder in folders {
        if manifest.append(folder).is_err() {
            return;
        }
    }
    let mut last = None;
    for item in manifest.iter() {
        let path = item.path();
        assert!(
            path.components()
                .all(|part| !part.is_empty() && part != b".." && part != b".")
        );
        assert!(!path.as_bytes().contains(&0) && path.as_bytes().len() <= 1024);
        // Nothing is there twice, whatever the order of the folders.
        assert_ne!(last.as_ref(), Some(&path));
        last = Some(path);
    }
    let starts = listing::part_starts(&manifest);
    assert!(!starts.is_empty());
    let again = listing::encode(manifest.iter());
    let mut second = Manifest::default();
    for folder in listing::decode(&again).expect("what was encoded decodes") {
        second.append(folder).expect("in the same order");
    }
    assert_eq!(second.len(), manifest.len());
});
