-- +goose Up

-- A challenge that expires at until or before is used up, whether or not its row is still there: so the rows need not outlive
-- their challenges by as much as the clock may be set back. Whoever deletes rows raises it in the same statement, and nothing
-- lowers it. What was deleted before had run out by now.
CREATE TABLE broker_swept (
  one   boolean PRIMARY KEY DEFAULT true CHECK (one),
  until timestamptz NOT NULL
);
INSERT INTO broker_swept (until) VALUES (now());
