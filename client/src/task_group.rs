//! Named tasks that a process cannot do without.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a group ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// An essential task returned although nobody had asked it to stop.
    #[error("{task} ended unexpectedly")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A task failed.
    #[error("{task} failed")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// Its name.
        task: &'static str,
        /// What it said.
        message: String,
    },
    /// Tasks did not stop in time; they were aborted.
    #[error("{tasks} did not stop within {deadline:?}")]
    Stuck {
        /// How many.
        tasks: usize,
        /// The deadline.
        deadline: Duration,
    },
}

type Outcome = (&'static str, Result<Result<(), Box<dyn std::error::Error + Send + Sync>>, String>);

/// Tasks that start together and stop together: when one ends early, the others are told to stop.
pub struct TaskGroup {
    tasks: JoinSet<Outcome>,
    stop: CancellationToken,
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl TaskGroup {
    /// An empty group. Cancelling the token tells its tasks to stop.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop }
    }

    /// The token that tells the tasks to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts an essential task. It should watch the group's token.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        use futures_util::FutureExt;
        let task = std::panic::AssertUnwindSafe(task).catch_unwind();
        self.tasks.spawn(async move {
            let outcome = match task.await {
                Ok(result) => Ok(result.map_err(Into::into)),
                Err(panic) => Err(panic_message(panic.as_ref())),
            };
            (name, outcome)
        });
    }

    /// Starts an essential task that cannot fail.
    pub fn spawn_infallible(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        use futures_util::FutureExt;
        self.spawn(name, task.map(Ok::<(), std::convert::Infallible>));
    }

    /// Runs until every task has ended. If one ends before the token is cancelled, or fails, the others are
    /// told to stop and it is returned as the error. Tasks that do not stop within `deadline` are aborted.
    pub async fn join(mut self, deadline: Duration) -> Result<(), TaskError> {
        let mut first = None;
        tokio::select! {
            () = self.stop.cancelled() => {}
            ended = self.tasks.join_next() => {
                // A cancelled token and an ended task may be seen in either order.
                first = ended.and_then(|ended| outcome(ended, !self.stop.is_cancelled()));
                self.stop.cancel();
            }
        }
        let drained = tokio::time::timeout(deadline, async {
            while let Some(ended) = self.tasks.join_next().await {
                let error = outcome(ended, false);
                match (&first, error) {
                    (None, error) => first = error,
                    // The first failure is the cause; later ones are worth a line.
                    (Some(_), Some(error)) => {
                        tracing::warn!(error = %crate::error::ErrorChain(&error), "task failed while stopping");
                    }
                    (Some(_), None) => {}
                }
            }
        })
        .await;
        if drained.is_err() {
            let tasks = self.tasks.len();
            self.tasks.shutdown().await;
            return Err(first.unwrap_or(TaskError::Stuck { tasks, deadline }));
        }
        match first {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn outcome(ended: Result<Outcome, tokio::task::JoinError>, early: bool) -> Option<TaskError> {
    match ended {
        Ok((task, Ok(Ok(())))) => early.then_some(TaskError::Ended { task }),
        Ok((task, Ok(Err(source)))) => Some(TaskError::Failed { task, source }),
        Ok((task, Err(message))) => Some(TaskError::Panicked { task, message }),
        Err(error) => Some(TaskError::Panicked { task: "a task", message: error.to_string() }),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> TaskGroup {
        TaskGroup::new(CancellationToken::new())
    }

    fn waits(group: &mut TaskGroup, name: &'static str) {
        let stop = group.stop().clone();
        group.spawn_infallible(name, async move { stop.cancelled().await });
    }

    #[tokio::test(start_paused = true)]
    async fn stops_when_told() {
        let mut group = group();
        waits(&mut group, "a");
        waits(&mut group, "b");
        group.stop().cancel();
        group.join(Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_stops_the_others_and_is_named() {
        let mut ended = group();
        waits(&mut ended, "a");
        ended.spawn_infallible("b", async {});
        let error = ended.join(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "b ended unexpectedly");

        let mut failed = group();
        waits(&mut failed, "a");
        failed.spawn("c", async { Err(std::io::Error::other("disk full")) });
        let error = failed.join(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(crate::error::ErrorChain(&error).to_string(), "c failed: disk full");

        let mut panicked = group();
        waits(&mut panicked, "a");
        panicked.spawn_infallible("d", async { panic!("a bug") });
        let error = panicked.join(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "d panicked: a bug");
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_tasks_are_aborted() {
        let mut stuck = group();
        stuck.spawn_infallible("deaf", std::future::pending());
        stuck.stop().cancel();
        let error = stuck.join(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "1 did not stop within 1s");
    }
}
