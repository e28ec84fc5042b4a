-- Where the server keeps its data; refused to most roles. Caller: the command line's doctor.
SELECT current_setting('data_directory') AS "path!"
