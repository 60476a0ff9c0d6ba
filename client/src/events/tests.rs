use manifests::k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::fake::Fake;
use crate::request::ListParams;

fn pod() -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("web".into());
    pod.metadata.namespace = Some("a".into());
    pod.metadata.uid = Some("u1".into());
    pod
}

async fn written(client: &Client) -> Vec<(String, String, i32)> {
    let list = client.namespaced::<Event>("a").list(&ListParams::default()).await.unwrap();
    let mut rows: Vec<(String, String, i32)> = list
        .items
        .into_iter()
        .map(|event| (event.reason.unwrap(), event.message.unwrap(), event.count.unwrap()))
        .collect();
    rows.sort();
    rows
}

#[tokio::test(start_paused = true)]
async fn events_are_written_and_counted() {
    let fake = Fake::new();
    let client = Client::new(fake.clone());
    let (recorder, writer) = events(client.clone(), "tester", Some("n1"));
    let stop = CancellationToken::new();
    let task = tokio::task::spawn(writer.run(stop.clone()));
    recorder.normal(&pod(), "Started", "began");
    recorder.warning(&pod(), "Failed", "x".repeat(5000));
    recorder.warning(&pod(), "Failed", "x".repeat(5000));
    fake.fail_next(3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let rows = written(&client).await;
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].0.as_str(), rows[0].1.len(), rows[0].2), ("Failed", MESSAGE_LIMIT, 2));
    assert_eq!(rows[1], ("Started".into(), "began".into(), 1));
    // Expired meanwhile: the next repeat is written anew.
    fake.clear();
    recorder.normal(&pod(), "Started", "began");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(written(&client).await, [("Started".into(), "began".into(), 2)]);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn recording_never_waits() {
    let (recorder, _writer) = events(Client::new(Fake::new()), "tester", None);
    for _ in 0..2 * CAPACITY {
        recorder.normal(&pod(), "Started", "began");
    }
    assert_eq!(recorder.dropped.load(Ordering::Relaxed), CAPACITY as u64);
}
