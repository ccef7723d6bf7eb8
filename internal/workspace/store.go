package workspace

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
)

const columns = `id, name, project, dataset, image, site, flavor, data_gib, owner, state, generation, reason, simulated, line, measurements,
  coalesce((SELECT ext_id FROM workspace_resource WHERE workspace = w.id AND role = 'server' AND gone_at IS NULL ORDER BY generation DESC LIMIT 1), '') AS server_id,
  coalesce((SELECT ext_id FROM workspace_resource WHERE workspace = w.id AND role = 'data' AND gone_at IS NULL ORDER BY generation DESC LIMIT 1), '') AS data_volume_id,
  version, created_at, updated_at, ready_at, deleted_at`

// Every query of the package, so that a test can prepare each of them on the migrated schema.
var queries = map[string]string{
	"insert": `
INSERT INTO workspace (id, name, project, dataset, image, site, flavor, data_gib, owner, simulated, state)
VALUES (@id, @name, @project, @dataset, @image, @site, @flavor, @data_gib, @owner, @simulated, 'creating')`,

	"get": `SELECT ` + columns + ` FROM workspace w WHERE id = @id`,

	"list": `SELECT ` + columns + ` FROM workspace w
WHERE id > @after AND (@projects::text[] IS NULL OR project = ANY (@projects)) AND (@owner = '' OR owner = @owner)
  AND (@site = '' OR site = @site) AND (@state = '' OR state = @state)
ORDER BY id LIMIT @limit`,

	// State changes name the state that they leave.
	"bind": `
UPDATE workspace SET line = @line, measurements = @measurements, version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state = 'creating'`,
	"ready": `
UPDATE workspace SET state = 'ready', reason = NULL, ready_at = coalesce(ready_at, clock_timestamp()), watch_at = clock_timestamp(),
  version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state = @from`,
	"reboot": `
UPDATE workspace SET state = 'rebooting', reason = NULL, version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND ready_at IS NOT NULL AND state = ANY (@from)`,
	"fail": `
UPDATE workspace SET state = 'failed', reason = @reason, version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state IN ('creating', 'rebooting', 'failed')`,
	"delete": `
UPDATE workspace SET state = 'deleting', reason = NULL, version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state NOT IN ('deleting', 'deleted')`,
	"deleted": `
UPDATE workspace SET state = 'deleted', deleted_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state = 'deleting'`,
	// What was looked at may have been asked for something else, and have come back to the same state, while the cloud answered.
	"observe": `
UPDATE workspace SET state = @state, reason = @reason, version = version + 1, updated_at = clock_timestamp()
WHERE id = @id AND state = @from AND version = @version`,

	"watch": `
UPDATE workspace w SET watch_at = clock_timestamp() + make_interval(secs => @every)
FROM (SELECT id FROM workspace WHERE state IN ('ready', 'stopped', 'failed') AND ready_at IS NOT NULL AND watch_at <= clock_timestamp()
      ORDER BY watch_at LIMIT @limit FOR UPDATE SKIP LOCKED) due
WHERE w.id = due.id
RETURNING w.id, w.project, w.site, w.state, w.generation, w.version, w.reason,
  coalesce((SELECT ext_id FROM workspace_resource WHERE workspace = w.id AND role = 'server' AND gone_at IS NULL ORDER BY generation DESC LIMIT 1), '') AS server_id`,

	"found": `
INSERT INTO workspace_resource (workspace, role, generation, name, ext_id) VALUES (@workspace, @role, @generation, @name, @ext_id)
ON CONFLICT (workspace, role, generation) DO UPDATE SET ext_id = excluded.ext_id, gone_at = NULL`,
	"gone": `
UPDATE workspace_resource SET gone_at = clock_timestamp() WHERE workspace = @workspace AND role = @role AND gone_at IS NULL`,
	"resources": `
SELECT role, ext_id FROM workspace_resource WHERE workspace = @workspace AND gone_at IS NULL ORDER BY generation`,

	"image-known": `INSERT INTO site_image (site, sha256) VALUES (@site, @sha256) ON CONFLICT DO NOTHING`,
	"image-lock":  `SELECT remover, removals FROM site_image WHERE site = @site AND sha256 = @sha256 FOR UPDATE`,
	"image-use":   `INSERT INTO site_image_use (site, sha256, workspace) VALUES (@site, @sha256, @workspace) ON CONFLICT DO NOTHING`,
	"images-lock": `
SELECT i.sha256 FROM site_image i JOIN site_image_use u USING (site, sha256) WHERE u.workspace = @workspace
ORDER BY i.site, i.sha256 FOR UPDATE OF i`,
	// The statements see each other's effect only one after the other: release, doom what has no use left, list it.
	"images-release": `
WITH mine AS (DELETE FROM site_image_use WHERE workspace = @workspace RETURNING site, sha256)
UPDATE site_image i SET remover = @workspace FROM mine WHERE i.site = mine.site AND i.sha256 = mine.sha256`,
	"images-doom": `
UPDATE site_image i SET remover = NULL WHERE i.remover = @workspace
  AND EXISTS (SELECT FROM site_image_use u WHERE u.site = i.site AND u.sha256 = i.sha256)`,
	"images-doomed":  `SELECT sha256 FROM site_image WHERE remover = @workspace ORDER BY site, sha256`,
	"images-removed": `UPDATE site_image SET remover = NULL, removals = removals + 1 WHERE remover = @workspace`,
}

type named = pgx.StrictNamedArgs

// change runs a guarded update of one row.
func change(ctx context.Context, tx pgx.Tx, query string, a named) error {
	tag, err := tx.Exec(ctx, queries[query], a)
	if err != nil {
		return fmt.Errorf("recording %s: %w", query, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("recording %s: %w", query, ErrState)
	}
	return nil
}

// anyRows runs a statement for which it does not matter how many rows there are.
func anyRows(ctx context.Context, tx pgx.Tx, query string, a named) error {
	if _, err := tx.Exec(ctx, queries[query], a); err != nil {
		return fmt.Errorf("recording %s: %w", query, err)
	}
	return nil
}

func readOne(ctx context.Context, db flow.Querier, id string) (Workspace, error) {
	rows, err := db.Query(ctx, queries["get"], named{"id": id})
	if err != nil {
		return Workspace{}, fmt.Errorf("reading workspace %s: %w", id, err)
	}
	w, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Workspace])
	if errors.Is(err, pgx.ErrNoRows) {
		return Workspace{}, fmt.Errorf("reading workspace %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Workspace{}, fmt.Errorf("reading workspace %s: %w", id, err)
	}
	return w, nil
}
