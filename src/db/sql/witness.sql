-- Adds what another worker sees of one that seems dead; the take-over that follows finds it there. Should it be alive, its next heartbeat
-- takes the row back. Caller: services::sweeper. Locks: the worker's row, which no write of that worker waits for (key share).
UPDATE stepd_engine.workers w SET facts = w.facts || jsonb_build_object('seen', $2::jsonb, 'seen_at', clock_timestamp()) WHERE w.id = $1
