-- Has a run ended, or does it wait for a person at a guard ($2) or because one has stopped it? Small: it is asked again and again.
-- Caller: http::older.
SELECT r.state::text AS "state!", r.state = 'waiting' AND (SELECT count(*) > 0 FROM stepd_engine.checkpoints c
        WHERE c.run = r.id AND c.state = 'waiting' AND c.event IS NULL AND c.kind = 'approve' AND stepd_engine.failure_field(c.decision, 'prompt') = $2) AS "on_hold!" FROM stepd.runs r WHERE r.id = $1
