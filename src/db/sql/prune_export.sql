-- Everything that is known of ended runs, each as one JSON document. Caller: db::retention, before they are removed.
-- A line break in stored JSON can only stand between its tokens: as a space it says the same.
SELECT translate(json_build_object(
        'run', row_to_json(r),
        'steps', (SELECT coalesce(json_agg(row_to_json(s) ORDER BY s.seq, s.key), '[]') FROM stepd.steps s WHERE s.run = r.id),
        'history', (SELECT coalesce(json_agg(row_to_json(h) ORDER BY h.seq), '[]') FROM stepd.history h WHERE h.run = r.id),
        'logs', (SELECT coalesce(json_agg(row_to_json(l) ORDER BY l.epoch, l.chunk, l.line), '[]') FROM stepd.logs l WHERE l.run = r.id),
        'signals', (SELECT coalesce(json_agg(row_to_json(g) ORDER BY g.id), '[]') FROM stepd_engine.signals g WHERE g.run = r.id)
    )::text, E'\n\r', '  ') AS "line!"
FROM stepd.runs r WHERE r.id = ANY($1) ORDER BY r.id
