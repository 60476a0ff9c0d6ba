use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::fake::Fake;

struct Boat {
    fake: Arc<Fake>,
    client: Client,
    working: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Boat {
    fn new() -> Self {
        let fake = Fake::new();
        let client = Client::new(fake.clone());
        Self { fake, client, working: Arc::default(), most: Arc::default() }
    }

    /// Leads until stopped, counting how many lead at once.
    fn start(
        &self,
        identity: &'static str,
        stop: &CancellationToken,
    ) -> tokio::task::JoinHandle<&'static str> {
        let (client, stop) = (self.client.clone(), stop.clone());
        let (working, most) = (self.working.clone(), self.most.clone());
        tokio::task::spawn(async move {
            let options = LeaseOptions::new("test", identity);
            let outcome = lead(&client, &options, &stop, |token| async move {
                most.fetch_max(working.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                token.cancelled().await;
                working.fetch_sub(1, Ordering::SeqCst);
            })
            .await;
            match outcome {
                Leadership::NeverLed => "never led",
                Leadership::Finished(()) => "finished",
                Leadership::Lost(()) => "lost",
            }
        })
    }

    async fn holder(&self) -> String {
        let lease = self.client.namespaced::<Lease>("kube-system").get("test").await.unwrap();
        lease.spec.unwrap().holder_identity.unwrap()
    }
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn released_leases_change_hands_at_once() {
    let boat = Boat::new();
    let (stop_a, stop_b) = (CancellationToken::new(), CancellationToken::new());
    let a = boat.start("a", &stop_a);
    seconds(1).await;
    let b = boat.start("b", &stop_b);
    seconds(60).await;
    assert_eq!(boat.holder().await, "a");
    stop_a.cancel();
    assert_eq!(a.await.unwrap(), "finished");
    assert_eq!(boat.holder().await, "");
    seconds(3).await;
    assert_eq!(boat.holder().await, "b");
    stop_b.cancel();
    assert_eq!(b.await.unwrap(), "finished");
    assert_eq!(boat.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_followed_after_its_lease() {
    let boat = Boat::new();
    let stop = CancellationToken::new();
    let a = boat.start("a", &stop);
    seconds(5).await;
    a.abort();
    let b = boat.start("b", &stop);
    seconds(10).await;
    assert_eq!(boat.holder().await, "a");
    seconds(10).await;
    assert_eq!(boat.holder().await, "b");
    stop.cancel();
    assert_eq!(b.await.unwrap(), "finished");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_its_lease_ends() {
    let boat = Boat::new();
    let stop = CancellationToken::new();
    let a = boat.start("a", &stop);
    seconds(1).await;
    let start = Instant::now();
    boat.fake.fail_next(u32::MAX);
    assert_eq!(a.await.unwrap(), "lost");
    assert!(start.elapsed() <= Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(boat.working.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn stopping_while_waiting() {
    let boat = Boat::new();
    let (stop_a, stop_b) = (CancellationToken::new(), CancellationToken::new());
    let a = boat.start("a", &stop_a);
    seconds(1).await;
    let b = boat.start("b", &stop_b);
    seconds(1).await;
    stop_b.cancel();
    assert_eq!(b.await.unwrap(), "never led");
    stop_a.cancel();
    assert_eq!(a.await.unwrap(), "finished");
}
