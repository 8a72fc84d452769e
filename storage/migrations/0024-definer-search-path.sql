-- The triggers run as their owner, for whoever writes. A session's temporary tables come before all others unless the
-- path says otherwise: a view there, named as a table that a trigger reads, would run its maker's code as the owner.
-- depends: 0023-badge-bounds

DO $$
DECLARE
    trigger_function regprocedure;
    schemas text := (SELECT string_agg(quote_ident(name), ', ') FROM unnest(current_schemas(false)) name);
BEGIN
    FOR trigger_function IN
        SELECT oid FROM pg_proc
        WHERE prosecdef AND proname LIKE 'realtime\_%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s, pg_temp', trigger_function, schemas);
    END LOOP;
END
$$;
