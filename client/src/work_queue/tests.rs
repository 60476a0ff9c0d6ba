use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn queue() -> WorkQueue<&'static str> {
    WorkQueue::with_backoff(Backoff::new(Duration::from_millis(10), Duration::from_secs(1)))
}

async fn now(queue: &WorkQueue<&'static str>) -> Option<&'static str> {
    queue.next().now_or_never().flatten()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_queued_once() {
    let queue = queue();
    queue.add("a");
    queue.add("b");
    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    assert_eq!(now(&queue).await, Some("b"));
    assert_eq!(now(&queue).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_while_processed_runs_again_and_never_twice_at_once() {
    let queue = queue();
    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.add("a");
    queue.add("a");
    assert_eq!(now(&queue).await, None, "still in work");
    queue.done(&"a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.done(&"a");
    assert_eq!(now(&queue).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_delay_counts() {
    let queue = queue();
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(60));
    queue.add_after("a", Duration::from_secs(5));
    queue.add_after("a", Duration::from_secs(30));
    assert_eq!(queue.next().await, Some("a"));
    assert_eq!(start.elapsed().as_secs(), 5);
    queue.done(&"a");
    assert_eq!(now(&queue).await, None);
    assert!(queue.lock().delayed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_key_wakes_a_sleeping_worker() {
    let queue = queue();
    queue.add_after("late", Duration::from_secs(3600));
    let worker = tokio::task::spawn({
        let queue = queue.clone();
        async move { queue.next().await }
    });
    tokio::task::yield_now().await;
    queue.add_after("soon", Duration::from_secs(1));
    assert_eq!(worker.await.unwrap(), Some("soon"));
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_are_forgotten() {
    let queue = queue();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        queue.add_rate_limited("a");
        assert_eq!(queue.next().await, Some("a"));
        pauses.push(start.elapsed());
        queue.done(&"a");
    }
    assert!(pauses[0] <= Duration::from_millis(11));
    assert!(pauses[9] >= Duration::from_millis(500) && pauses[9] <= Duration::from_millis(1001));
    queue.forget(&"a");
    assert_eq!(queue.failures(&"a"), 0);
}

#[tokio::test(start_paused = true)]
async fn work_retries_failures_and_panics_and_finishes_what_it_began() {
    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    let queue = queue();
    let stop = CancellationToken::new();
    let (failures, panics, slow) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    for key in ["failing", "panicking", "slow"] {
        queue.add(key);
    }
    let reconcile = |key: &'static str| {
        let (failures, panics, slow, stop) = (&failures, &panics, &slow, &stop);
        async move {
            match key {
                "failing" if failures.fetch_add(1, Ordering::Relaxed) < 5 => return Err(NotYet),
                "panicking" if panics.fetch_add(1, Ordering::Relaxed) < 2 => panic!("a bug"),
                "slow" => {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    stop.cancel();
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    slow.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
            Ok(Next::Wait)
        }
    };
    queue.work("test", 2, &stop, reconcile).await;
    assert_eq!(failures.into_inner(), 6);
    assert_eq!(panics.into_inner(), 3);
    assert_eq!(slow.into_inner(), 1);
}

#[tokio::test(start_paused = true)]
async fn close_wakes_every_worker() {
    let queue = queue();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let queue = queue.clone();
            tokio::task::spawn(async move { queue.next().await })
        })
        .collect();
    tokio::task::yield_now().await;
    queue.close();
    for worker in workers {
        assert_eq!(worker.await.unwrap(), None);
    }
}
