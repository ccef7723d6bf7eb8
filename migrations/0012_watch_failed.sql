-- +goose Up

-- A failed reboot is watched, too: its guest may come up after all, or another boot be refused.
DROP INDEX workspace_watch;
CREATE INDEX workspace_watch ON workspace (watch_at) WHERE state IN ('ready', 'stopped', 'failed') AND ready_at IS NOT NULL;
