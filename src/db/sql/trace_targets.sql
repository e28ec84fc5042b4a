-- Says where this daemon sends traces, once a minute: from then on ends of runs are noted for them. Caller: services::tracer.
-- Index: trace_targets_pkey. In the order of the names, so that two daemons never wait for each other's rows.
INSERT INTO stepd_engine.trace_targets AS t (name, keep, most)
SELECT n.name, $2::bigint * interval '1 second', $3::bigint FROM unnest($1::text[]) AS n(name) ORDER BY n.name
ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(), keep = excluded.keep, most = excluded.most
