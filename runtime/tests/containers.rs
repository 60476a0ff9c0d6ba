//! Containers on the real kernel: what they see, what they may do, how they end.

mod support;

use support::Bench;

#[tokio::test]
async fn a_program_runs_and_its_exit_code_comes_back() {
    need_root!();
    let bench = Bench::new();
    assert_eq!(bench.run("echo hello; echo oops >&2; exit 7").await, (7, "hello\n".into(), "oops\n".into()));
    bench.finish();
}
