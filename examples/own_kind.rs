//! A kind of step of your own: registered in your binary, used in a workflow file like any other.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example own_kind
//! ```

use serde_json::{Value, json};
use stepd::{BoxFuture, Failure, Flow, Step, StepCx, StepOutput, Stepd};

/// What a file names by its key; all of its engine's abilities (retries, timeouts, checkpoints) come with it.
const FILE: &str = "
name: room
input: {required: [room], properties: {room: {type: string}}}
steps:
  - id: now
    thermometer: {room: \"${{ input.room }}\"}
    output: celsius
    retry: {max_attempts: 5}
output: \"{'celsius': steps.now.output, 'comfortable': steps.now.output > 18 and steps.now.output < 25}\"
";

struct Thermometer;

impl Step for Thermometer {
    fn kind(&self) -> &'static str {
        "thermometer"
    }

    fn raw(&self) -> &'static [&'static str] {
        &["celsius", "fahrenheit"]
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let celsius = match params["room"].as_str() {
                Some("kitchen") => 21.0,
                // Permanent: never tried again. A transient one is, as the file says.
                _ => return Err(Failure::permanent("no_sensor", "there is no sensor in this room")),
            };
            let raw = json!({"celsius": celsius, "fahrenheit": celsius * 1.8 + 32.0});
            Ok(Flow::Done(StepOutput { default: raw.clone(), raw }))
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("room.yaml"), FILE)?;
    let stepd = Stepd::builder().queue("rooms").kind(Thermometer).workflow_files(folder.path()).start().await?;
    let run = stepd.enqueue("room", &json!({"room": "kitchen"})).await?;
    let output: Value = stepd.result(run).await?;
    println!("{output}");
    stepd.shutdown().await;
    Ok(())
}
