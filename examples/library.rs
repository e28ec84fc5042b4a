//! stepd as a library: workflows in Rust, in your own binary. This one crashes on purpose and comes back.
//!
//! ```sh
//! cargo run --example library                                       # a private Postgres, and two starts of this program on it
//! DATABASE_URL=postgres://… cargo run --example library             # one start: the first crashes, start it again
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepd::{Ctx, Failure, Halt, Stepd};

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    skus: Vec<String>,
}

#[derive(Serialize, Deserialize, Debug)]
struct Receipt {
    charge: String,
    parcels: Vec<String>,
}

async fn fulfil(ctx: &Ctx<'_>, order: Order) -> Result<Receipt, Halt> {
    // Done once: at the second start it answers from its checkpoint.
    ctx.step("reserve", || async {
        println!("reserve: order {} is reserved", order.id);
        Ok(())
    })
    .await?;

    // Here the first start dies. The key that the payment service is given is the same in both.
    let charge = ctx
        .step_with("charge", |step| async move {
            println!("charge: with the idempotency key …/{}", step.key);
            if step.epoch == 1 {
                println!("charge: the power goes out");
                std::process::abort();
            }
            pay(&step.idempotency_key()).await?;
            Ok("paid".to_owned())
        })
        .attempts(5)
        .timeout(Duration::from_secs(10))
        .await?;

    ctx.sleep("cool_off", Duration::from_millis(300)).await?;

    // Each item has steps, and checkpoints, of its own.
    let parcels = ctx
        .map("items", order.skus.clone(), |ctx, sku| async move {
            ctx.step("pack", || async { Ok(format!("a parcel with {sku}")) }).await
        })
        .max_parallel(2)
        .await?;
    Ok(Receipt { charge, parcels })
}

/// An error of the application's own, and what it means for a step.
#[derive(Debug, thiserror::Error)]
enum PayError {
    #[error("the card was declined")]
    #[allow(dead_code)]
    Declined,
}

impl From<PayError> for Failure {
    fn from(error: PayError) -> Self {
        match error {
            // Permanent: never tried again.
            PayError::Declined => Self::permanent("declined", error.to_string()),
        }
    }
}

async fn pay(_idempotency_key: &str) -> Result<(), PayError> {
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::var_os("DATABASE_URL").is_none() {
        return twice().await;
    }
    let builder = Stepd::builder().queue("orders").workflow("fulfil", fulfil).concurrency(10);
    let stepd = builder.traces_from_env().start().await?;
    // The key makes it the same run at both starts: the second finds the one that is unfinished.
    let order = Order { id: 7, skus: vec!["tea".into(), "cup".into(), "spoon".into()] };
    let run = stepd.enqueue("fulfil", &order).unique_key("order 7").await?;
    println!("run {run}");
    let receipt: Receipt = stepd.result(run).await?;
    println!("{receipt:?}");
    stepd.shutdown().await;
    Ok(())
}

/// Starts this program twice, on a private Postgres.
async fn twice() -> anyhow::Result<()> {
    use stepd::postgres::{Options, PrivatePostgres};
    let pg = tokio::task::spawn_blocking(|| PrivatePostgres::start(&Options::default())).await??;
    pg.create_database("shop", None).await?;
    for start in ["first", "second"] {
        println!("--- the {start} start");
        let program = std::env::current_exe()?;
        let status = tokio::process::Command::new(program).env("DATABASE_URL", pg.url("shop")).status().await?;
        println!("--- {status}");
    }
    Ok(())
}
