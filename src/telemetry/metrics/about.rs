//! Every metric there is: its name, its unit, its labels, what it says. `docs/metrics.md` is held against this table.

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the process's start. Its name on the page ends with `_total`.
    Counter,
    /// As it stands.
    Gauge,
    /// How large many things were: `_bucket`, `_sum`, `_count`.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name, without the `_total` of a counter.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// What is counted or measured: `seconds`, `bytes`, `runs`.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, without the full stop.
    pub says: &'static str,
}

impl About {
    /// The name as it is asked for.
    #[must_use]
    pub fn asked(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] in $unit:literal, $says:literal;)*) => {
        $(
            #[doc = $says]
            pub const $constant: About =
                About { name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], says: $says };
        )*
        /// All of them, in the order of the handbook.
        pub const ALL: &[&About] = &[$(&$constant),*];
    };
}

metrics! {
    // The whole database.
    OLDEST_READY: Gauge "stepd_oldest_ready_age_seconds" ["queue"] in "seconds", "How long the run that has been ready for longest waits to be claimed, paused queues included: the first figure to alert on; 0: none waits";
    DATABASE_UP: Gauge "stepd_database_up" [] in "1 or 0", "Did the database answer the last scrape? If not, the figures of the whole database are absent";
    DATABASE_ANSWER: Gauge "stepd_database_answer_seconds" [] in "seconds", "How long the database took to answer the simplest question, a connection included, when it was last asked for the figures";
    FIGURES_AGE: Gauge "stepd_figures_age_seconds" [] in "seconds", "How old the figures of the whole database are on this page";
    RUNS: Gauge "stepd_runs" ["queue", "state"] in "runs", "Unfinished runs by queue and state: scheduled, queued, held, running, waiting, paused, resuming";
    FAILED_RUNS: Gauge "stepd_failed_runs" ["queue"] in "runs", "Runs of the last 24 hours (by when they were enqueued; of very many the newest 10000) that stand failed: nobody has retried them";
    QUEUE_PAUSED: Gauge "stepd_queue_paused" ["queue"] in "1 or 0", "Has an operator paused the queue?";
    OLDEST_DUE: Gauge "stepd_oldest_due_age_seconds" [] in "seconds", "How long the run that is longest overdue (a sleep, a retry, a resume, a run_at that has passed) waits to be taken up; 0: none";
    SCHEDULE_LAG: Gauge "stepd_schedule_lag_seconds" [] in "seconds", "How late the latest schedule is whose instant has passed without having been decided; 0: none";
    LOCKS_HELD: Gauge "stepd_locks_held" ["kind"] in "locks", "What is kept from others: kind=lease runs that a worker has, kind=key places of concurrency keys that runs have (of very many 100000)";
    WORKERS: Gauge "stepd_workers" ["alive"] in "workers", "Registered workers: alive=true those whose heartbeat is younger than their lease, false those that are to be taken over";
    SLOTS_OF_ALL: Gauge "stepd_workers_slots" [] in "runs", "Runs that all living workers together take at once";
    STEP_BREAKERS: Gauge "stepd_step_breakers_open" [] in "breakers", "Steps at which so many runs have failed that their automatic resumes stand still, but for one that probes";
    OLDEST_TRANSACTION: Gauge "stepd_oldest_transaction_age_seconds" [] in "seconds", "How long the oldest transaction of the database has been open, as far as this role may see: it keeps dead rows from being removed";
    HELD_BACK: Gauge "stepd_dead_rows_held_back_transactions" [] in "transactions", "For how many transactions dead rows have not been removed, because a session, a prepared transaction, a standby (hot_standby_feedback) or a replication slot may still look at them";
    TABLE_BYTES: Gauge "stepd_table_size_bytes" ["table"] in "bytes", "How large stepd's tables are, without their indexes";
    INDEX_BYTES: Gauge "stepd_table_indexes_size_bytes" ["table"] in "bytes", "How large their indexes are";
    TABLE_ROWS: Gauge "stepd_table_rows" ["table"] in "rows", "Living rows of stepd's tables, as the statistics say";
    DEAD_ROWS: Gauge "stepd_table_dead_rows" ["table"] in "rows", "Dead rows that no vacuum has removed yet, as the statistics say";
    HISTORY_AGE: Gauge "stepd_history_age_seconds" [] in "seconds", "How long ago the oldest run of the history was enqueued: what a retention should bound";

    // This worker.
    RUNS_CLAIMED: Counter "stepd_runs_claimed" ["queue"] in "runs", "Runs that this worker has claimed; one that comes back is claimed again";
    RUN_WAIT: Histogram "stepd_run_wait_seconds" ["queue"] in "seconds", "How long new runs were ready before they were claimed";
    CLAIM_TIME: Histogram "stepd_claim_duration_seconds" [] in "seconds", "How long the statements took that claim";
    ACTIVATIONS: Counter "stepd_activations" ["outcome"] in "activations", "What came of claimed runs: completed, failed, cancelled, suspended, resuming, paused, interrupted, lease_lost";
    RUNS_ENDED: Counter "stepd_runs_ended" ["workflow", "state"] in "runs", "Runs that this worker has ended: completed, failed, cancelled. What an operator ends while no worker has it, and what has killed too many workers, no worker ends";
    RUN_DURATION: Histogram "stepd_run_duration_seconds" ["workflow"] in "seconds", "From their first claim to their end, waits included";
    RESUMES: Counter "stepd_resumes" ["workflow"] in "resumes", "Automatic resumes of failed runs that this worker has scheduled";
    STEPS_ENDED: Counter "stepd_steps_ended" ["kind", "state"] in "steps", "Steps that this worker has ended: completed, failed, skipped. A wait that is answered while its run is suspended is ended by the answer, and counts nowhere";
    STEP_DURATION: Histogram "stepd_step_duration_seconds" ["kind"] in "seconds", "From their first attempt to their end, retries, pauses and waits included";
    ATTEMPTS_FAILED: Counter "stepd_attempts_failed" ["kind", "code"] in "attempts", "Attempts of steps that have failed, by the failure's code";
    RETRIES: Counter "stepd_retries" ["kind"] in "attempts", "Failed attempts that are followed by another one";
    SLOTS: Gauge "stepd_slots" [] in "runs", "Runs that this worker takes at once";
    SLOTS_USED: Gauge "stepd_slots_used" [] in "runs", "Runs that are being run";
    BUFFERED: Gauge "stepd_runs_buffered" [] in "runs", "Runs that this worker has claimed and not started";
    AT_WORK: Gauge "stepd_attempts_at_work" [] in "attempts", "Attempts of steps that are at work";
    REGISTERED: Gauge "stepd_registered" [] in "1 or 0", "Is this process registered among the workers?";
    OUTAGES: Counter "stepd_database_outages" [] in "outages", "How often the database went away, as this worker knows";
    CONNECTIONS_LOST: Counter "stepd_connections_lost" ["service"] in "connections", "Connections of the hot path that were lost, and tries to make one that failed";
    POOL: Gauge "stepd_pool_connections" ["pool", "state"] in "connections", "Connections of this process's pools: used, idle";
    POOL_MOST: Gauge "stepd_pool_connections_max" ["pool"] in "connections", "How many each pool may have";
    BATCH: Histogram "stepd_writer_batch_runs" [] in "runs", "Runs that one commit of a writer records something of";
    COMMIT: Histogram "stepd_writer_commit_duration_seconds" [] in "seconds", "How long the commits of the writers take";
    PARKED: Gauge "stepd_writer_parked" [] in "runs", "Runs whose records wait behind somebody else's lock";
    TAKE_OVERS: Counter "stepd_take_overs" ["found_by"] in "workers", "Dead workers that this one has taken over: found by their lock, or by their lease";
    TAKEN: Counter "stepd_runs_taken_over" [] in "runs", "Runs that it brought back from them";
    QUARANTINED: Counter "stepd_runs_quarantined" [] in "runs", "Runs that it failed because they have killed too many workers";
    MENDED: Counter "stepd_wake_ups_mended" [] in "runs", "Lost wake-ups that the repair has found and mended";
    SCHEDULED: Counter "stepd_schedule_starts" [] in "runs", "Runs that this worker has started for schedules";
    PASSES: Counter "stepd_service_passes" ["service", "outcome"] in "passes", "Passes of the services: ok, failed";
    PASS_AGE: Gauge "stepd_service_pass_age_seconds" ["service"] in "seconds", "How long ago a pass of each service last succeeded: how far the repair, the stager, the scheduler and the retention lag";
    BREAKER: Gauge "stepd_breaker_open" ["kind", "name"] in "0, 0.5 or 1", "The circuit breakers of MCP servers and models: 0 closed, 0.5 one call tries, 1 open";
    TRACE_SPANS: Counter "stepd_trace_export_spans" ["target"] in "spans", "Spans that a target of traces has taken";
    TRACE_BYTES: Counter "stepd_trace_export_sent_bytes" ["target"] in "bytes", "Bytes that have been sent to it, packed";
    TRACE_FAILED: Counter "stepd_trace_export_failures" ["target"] in "requests", "Requests that it has not taken: they are sent again";
    TRACE_REFUSED: Counter "stepd_trace_export_refused_spans" ["target"] in "spans", "Spans that it has refused for good";
    TRACE_DROPPED: Counter "stepd_trace_export_dropped_runs" ["target"] in "runs", "Runs whose traces were dropped before they were sent: too old, too many, or removed";
    TRACE_BACKLOG: Gauge "stepd_trace_export_queue_runs" ["target"] in "runs", "Runs whose traces are still to be sent, of the whole database, as last looked at";
    TRACE_LAG: Gauge "stepd_trace_export_lag_seconds" ["target"] in "seconds", "How old the oldest of them is";

    // Models.
    MODEL_CALLS: Counter "stepd_model_calls" ["workflow", "model"] in "calls", "Requests to models, those included that failed";
    MODEL_TOKENS: Counter "stepd_model_tokens" ["workflow", "model", "direction"] in "tokens", "Tokens of models: in, out; those of failed attempts, retries and repairs, and cached ones, included";
    MODEL_CACHED: Counter "stepd_model_cached_tokens" ["workflow", "model"] in "tokens", "Tokens of prompts that the provider had in its cache; direction=in counts them, too";
    MODEL_COST: Counter "stepd_model_cost" ["workflow", "model"] in "money", "What the calls cost, in the currency of the configured prices";
    MODEL_TIME: Histogram "stepd_model_call_duration_seconds" ["model"] in "seconds", "How long calls of models took";

    // HTTP.
    REQUESTS: Counter "stepd_http_requests" ["method", "route", "status"] in "requests", "Requests to this process's HTTP server";
    REQUEST_TIME: Histogram "stepd_http_request_duration_seconds" ["route"] in "seconds", "Until the answer began";
    STREAMS: Gauge "stepd_http_streams_open" [] in "streams", "Open streams and WebSockets";

    // This process.
    BUILD: Gauge "stepd_build_info" ["version", "schema"] in "1", "Always 1: the version of stepd, and of the schema that it knows";
    PROCESS_CPU: Counter "process_cpu_seconds" [] in "seconds", "CPU time, of user and system";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [] in "bytes", "Resident memory";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] in "bytes", "Virtual memory";
    PROCESS_FDS: Gauge "process_open_fds" [] in "descriptors", "Open file descriptors";
    PROCESS_FDS_MOST: Gauge "process_max_fds" [] in "descriptors", "How many it may have open";
    PROCESS_THREADS: Gauge "process_threads" [] in "threads", "Threads";
    PROCESS_START: Gauge "process_start_time_seconds" [] in "seconds", "When the process started, since 1970";
}
