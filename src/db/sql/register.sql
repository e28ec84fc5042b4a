-- A worker's registration: a fresh id and a fresh lock number. Caller: services::presence.
INSERT INTO stepd_engine.workers (host, pid, version, queues, slots, lease_ms) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, number, clock_timestamp() AS "now!"
