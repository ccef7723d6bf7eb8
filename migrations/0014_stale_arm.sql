-- +goose Up

-- A generation is armed while an operation that asked for its boot runs, and no longer. Earlier code left one armed when that
-- operation failed or stood still, and a boot that came late still got the key. Here is taken back what nothing else will. The
-- audit log has no entry of it, for siestad alone can write there: the row has the reason.

-- A creation that stands still has failed: nothing resumes it, and a deletion takes its place.
UPDATE workspace w SET state = 'failed', version = version + 1, updated_at = clock_timestamp(),
  reason = jsonb_build_object('fix', 'an operator removes what is in the way; then delete the workspace, which takes away what is left') || f.problem
FROM flow f WHERE f.subject = 'workspace/' || w.id AND f.kind = 'create' AND f.state = 'parked' AND w.state = 'creating';
UPDATE broker_arm a SET state = 'disarmed', reason = 'its creation stands still', changed_at = now()
FROM flow f WHERE f.subject = 'workspace/' || a.workspace AND f.kind = 'create' AND f.state = 'parked' AND a.state <> 'disarmed';
UPDATE broker_lease l SET state = 'ended', ended_why = 'its creation stands still', sealed_enc = NULL, sealed_text = NULL
FROM flow f WHERE f.subject = 'workspace/' || l.workspace AND f.kind = 'create' AND f.state = 'parked' AND l.state = 'live';

-- What a creation has armed that is under way, or a reboot, which arms with the commit of its step "stopped", is asked for.
-- Anything else takes a person's word: nobody knows any more what the arming had lifted.
UPDATE broker_arm a SET state = 'suspended', epoch = epoch + 1, report_id = NULL, changed_at = now(),
  reason = 'it had been left armed for a boot that nobody waited for any more'
WHERE state = 'armed' AND NOT EXISTS (SELECT FROM flow f WHERE f.subject = 'workspace/' || a.workspace
  AND f.state IN ('running', 'unwinding') AND NOT (f.kind = 'reboot' AND f.step IN ('end-lease', 'stop', 'stopped')));
