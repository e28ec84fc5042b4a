-- Do inserts wake the workers? Caller: the command line's doctor.
SELECT s.notify AS "notify!" FROM stepd.settings s
