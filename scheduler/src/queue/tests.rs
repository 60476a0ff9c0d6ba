use testkit::pod;

use super::*;

fn arc(pod: testkit::PodBuilder) -> Arc<Pod> {
    Arc::new(pod.build())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
    queue.pop(now).map(|pod| pod.name().to_owned())
}

fn fit() -> Plugins {
    [Plugin::NodeResourcesFit].into_iter().collect()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn priority_then_arrival() {
    let now = Instant::now();
    let mut queue = Queue::new();
    queue.upsert(arc(pod("a")), now);
    queue.upsert(arc(pod("b").priority(10)), now);
    queue.upsert(arc(pod("c")), now);
    queue.upsert(arc(pod("a").condition("PodScheduled", "False")), now);
    let order: Vec<String> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
    assert_eq!(order, ["b", "a", "c"]);
    queue.upsert(arc(pod("a")), now);
    assert_eq!(pop(&mut queue, now), None, "a pod in flight is not handed out again");
}

#[test]
fn only_events_that_could_help_end_a_wait() {
    let start = Instant::now();
    let mut queue = Queue::new();
    queue.upsert(arc(pod("a")), start);
    pop(&mut queue, start).unwrap();
    queue.unschedulable(&key("a"), fit(), start);
    queue.event([Plugin::NodeAffinity].into_iter().collect(), start);
    assert_eq!(pop(&mut queue, start + seconds(60)), None);
    // After the back-off an event helps at once; before, at its end.
    queue.event(fit(), start + seconds(60));
    assert_eq!(pop(&mut queue, start + seconds(60)).as_deref(), Some("a"));
    queue.unschedulable(&key("a"), fit(), start + seconds(60));
    queue.event(fit(), start + seconds(60));
    assert_eq!(pop(&mut queue, start + seconds(61)), None);
    assert_eq!(queue.next_wake(), Some(start + seconds(62)));
    assert_eq!(pop(&mut queue, start + seconds(62)).as_deref(), Some("a"));
}

#[test]
fn pauses_double_to_ten_seconds() {
    let mut now = Instant::now();
    let mut queue = Queue::new();
    queue.upsert(arc(pod("a")), now);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        pop(&mut queue, now).unwrap();
        queue.retry(&key("a"), now);
        let wake = queue.next_wake().unwrap();
        pauses.push((wake - now).as_secs());
        now = wake;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_relevant_change_of_the_pod_ends_its_wait() {
    let now = Instant::now();
    let later = now + seconds(20);
    let mut queue = Queue::new();
    queue.upsert(arc(pod("a").node_selector("x", "y")), now);
    pop(&mut queue, now).unwrap();
    queue.unschedulable(&key("a"), fit(), now);
    queue.upsert(arc(pod("a").node_selector("x", "y").condition("PodScheduled", "False")), later);
    assert_eq!(pop(&mut queue, later), None, "our own status write must not");
    queue.upsert(arc(pod("a").node_selector("x", "z")), later);
    assert_eq!(pop(&mut queue, later).as_deref(), Some("a"));
}

#[test]
fn nobody_waits_longer_than_the_flush() {
    let now = Instant::now();
    let mut queue = Queue::new();
    queue.upsert(arc(pod("a")), now);
    pop(&mut queue, now).unwrap();
    queue.unschedulable(&key("a"), fit(), now);
    assert_eq!(queue.next_wake(), Some(now + FLUSH));
    assert_eq!(pop(&mut queue, now + FLUSH).as_deref(), Some("a"));
}

#[test]
fn nothing_is_left_of_removed_pods() {
    let now = Instant::now();
    let mut queue = Queue::new();
    for name in ["active", "resting", "waiting", "flying"] {
        queue.upsert(arc(pod(name)), now);
    }
    for _ in 0..4 {
        let name = pop(&mut queue, now).unwrap();
        match name.as_str() {
            "resting" => queue.retry(&key("resting"), now),
            "waiting" => queue.unschedulable(&key("waiting"), Plugins::ALL, now),
            _ => {}
        }
    }
    queue.upsert(arc(pod("more")), now);
    for name in ["active", "resting", "waiting", "flying", "more", "never"] {
        queue.remove(&key(name));
    }
    assert!(queue.is_empty() && queue.active.is_empty() && queue.backing_off.is_empty());
    assert!(queue.flushes.is_empty());
    assert_eq!(queue.next_wake(), None);
}
