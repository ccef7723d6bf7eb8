-- +goose Up

-- One row per run: where it stands. Leases and waits are by this database's clock.
CREATE TABLE flow (
  id          text PRIMARY KEY CHECK (id ~ '^[0-9a-z]{26}$'),
  kind        text NOT NULL CHECK (kind <> ''),
  subject     text NOT NULL CHECK (subject <> ''),
  state       text NOT NULL CHECK (state IN ('running', 'unwinding', 'parked', 'succeeded', 'failed', 'superseded')),
  backward    boolean NOT NULL DEFAULT false,
  steps       text[] NOT NULL CHECK (cardinality(steps) > 0),
  step        text NOT NULL,
  data        jsonb NOT NULL,
  epoch       bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  holder      text,
  lease_until timestamptz,
  next_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- First intent of the current step in the current direction; the step's deadline counts from here.
  intent_at   timestamptz,
  attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  detail      text NOT NULL DEFAULT '',
  calls       jsonb NOT NULL DEFAULT '[]',
  problem     jsonb,
  cancel      text,
  request     text NOT NULL DEFAULT '',
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at    timestamptz,
  CHECK ((state IN ('succeeded', 'failed', 'superseded')) = (ended_at IS NOT NULL)),
  CHECK ((holder IS NULL) = (lease_until IS NULL)),
  CHECK (state <> 'running' OR NOT backward),
  CHECK (state <> 'unwinding' OR backward),
  CHECK (state NOT IN ('unwinding', 'parked', 'failed') OR problem IS NOT NULL)
);
-- A subject has one writer.
CREATE UNIQUE INDEX flow_live ON flow (subject) WHERE state IN ('running', 'unwinding', 'parked');
CREATE INDEX flow_due ON flow (next_at) WHERE state IN ('running', 'unwinding');
CREATE INDEX flow_subject ON flow (subject, id);

CREATE TABLE flow_event (
  seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  flow    text NOT NULL REFERENCES flow,
  epoch   bigint NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind    text NOT NULL CHECK (kind IN ('created', 'intent', 'taken_over', 'waiting', 'retried', 'succeeded', 'failed',
    'undo_intent', 'undo_waiting', 'undo_retried', 'undone', 'parked', 'resumed', 'superseded', 'flow_succeeded', 'flow_failed')),
  step    text NOT NULL DEFAULT '',
  detail  text NOT NULL DEFAULT '',
  problem jsonb,
  calls   jsonb
);
CREATE INDEX flow_event_flow ON flow_event (flow, seq);

-- +goose StatementBegin
CREATE FUNCTION flow_event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'flow_event is append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER flow_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flow_event
  FOR EACH STATEMENT EXECUTE FUNCTION flow_event_is_append_only();
