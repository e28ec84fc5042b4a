-- A queue that only the workers that name it serve. Caller: the `run` command and binaries with workflows in Rust.
INSERT INTO stepd_engine.queues (name, exclusive) VALUES ($1, true) ON CONFLICT (name) DO UPDATE SET exclusive = true
