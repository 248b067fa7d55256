//! How long the work of an identity goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{future::pending, sync::Arc, time::Duration};

use mesh_core::{
    Work,
    identity::{Identity, IdentityError, IdentitySource, IdentityStatus},
};
use mesh_http::Mesh;

/// Has no identity, and work that never ends; it is held for as long as that goes on.
#[derive(Debug)]
struct Endless {
    _held: Arc<()>,
}

impl IdentitySource for Endless {
    fn current(&self) -> Result<Arc<Identity>, IdentityError> {
        Err(IdentityError::absent("identity", "there is none", "add one"))
    }

    fn status(&self) -> IdentityStatus {
        IdentityStatus::default()
    }

    fn work(self: Arc<Self>) -> Work {
        Box::pin(async move {
            let _held = self;
            pending().await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn identity_that_is_replaced_works_no_more() {
    let [first, second, other] = [(); 3].map(|()| Arc::new(()));
    let mesh = Mesh::builder().identity("own", Endless { _held: first.clone() }).build().unwrap();
    mesh.add_identity("other", Endless { _held: other.clone() });
    mesh.add_identity("own", Endless { _held: second.clone() });
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!([&first, &second, &other].map(Arc::strong_count), [1, 2, 2]);
    assert!(mesh.shutdown(Duration::ZERO).await);
    drop(mesh);
    assert_eq!([&second, &other].map(Arc::strong_count), [1, 1]);
}
