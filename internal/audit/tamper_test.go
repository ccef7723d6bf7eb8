package audit

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestTriggersRefuse shows what an ordinary session cannot do.
func TestTriggersRefuse(t *testing.T) {
	r := newRig(t)
	stop := r.start(r.log())
	l := r.log()
	r.fill(l, 300)
	_ = stop()
	r.append(entry(300)) // stays in the inbox
	for _, sql := range []string{
		`UPDATE audit_entry SET body = body WHERE leaf_index = 0`,
		`DELETE FROM audit_entry WHERE leaf_index = 0`,
		`TRUNCATE audit_entry`,
		`UPDATE audit_batch SET leaves = leaves`,
		`DELETE FROM audit_batch`,
		`TRUNCATE audit_batch`,
		`UPDATE audit_tile SET data = data`,
		`DELETE FROM audit_tile`,
		`TRUNCATE audit_tile`,
		`UPDATE audit_opening SET openings = openings`,
		`TRUNCATE audit_opening`,
		`UPDATE audit_inbox SET object = 'x'`,
		`DELETE FROM audit_inbox`,
		`TRUNCATE audit_inbox`,
		`UPDATE audit_head SET size = size - 1`,
		`UPDATE audit_head SET epoch = 0`,
		`UPDATE audit_head SET key = 'other'`,
		`DELETE FROM audit_head`,
		`UPDATE audit_program SET until = until - 1`,
		`DELETE FROM audit_program`,
		`TRUNCATE audit_program`,
		`SET session_replication_role = replica; UPDATE audit_entry SET object = 'x'`,
		`SET session_replication_role = replica; DELETE FROM audit_inbox`,
	} {
		_, err := r.db.Exec(r.context(), sql)
		if strings.HasPrefix(sql, "SET ") { // two statements need the simple protocol
			conn, acquireErr := r.db.Acquire(r.context())
			if acquireErr != nil {
				t.Fatal(acquireErr)
			}
			_, err = conn.Conn().PgConn().Exec(r.context(), sql).ReadAll()
			_ = conn.Conn().Close(r.context())
			conn.Release()
		}
		var fault *pgconn.PgError
		if !errors.As(err, &fault) || fault.Code != "SA001" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	r.start(l)
	r.fill(l, 1)
	r.intact(l)
}

// disarm is what a database administrator can always do.
func (r *rig) disarm() {
	for _, table := range []string{"audit_entry", "audit_batch", "audit_tile", "audit_head", "audit_inbox", "audit_opening"} {
		r.exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER ALL`)
	}
	r.exec(`ALTER TABLE audit_entry DROP CONSTRAINT IF EXISTS audit_entry_leaf_index_check`)
}

const (
	tamperBody = `UPDATE audit_entry SET body = convert_to(replace(convert_from(body, 'UTF8'), '"success"', '"refused"'), 'UTF8') WHERE leaf_index = $1`
	// The batch's leaf is made to fit the changed body.
	tamperLeaf = `UPDATE audit_batch b SET leaves = overlay(leaves placing (SELECT sha256('\x00'::bytea || body) FROM audit_entry WHERE leaf_index = $1)
    from (32 * ($1 - first_index) + 1)::int) WHERE first_index <= $1 AND size > $1`
	tamperTile = `UPDATE audit_tile SET data = overlay(data placing (SELECT sha256('\x00'::bytea || body) FROM audit_entry WHERE leaf_index = $1)
    from (32 * ($1 % 256) + 1)::int) WHERE level = 0 AND idx = $1 / 256`
)

// TestTamper has an administrator change the log after disabling the triggers.
// Every row must be found, at the first index that is wrong.
func TestTamper(t *testing.T) {
	swap := func(r *rig, a, b int64) {
		r.exec(`UPDATE audit_entry SET leaf_index = -1 WHERE leaf_index = $1`, a)
		r.exec(`UPDATE audit_entry SET leaf_index = $1 WHERE leaf_index = $2`, a, b)
		r.exec(`UPDATE audit_entry SET leaf_index = $1 WHERE leaf_index = -1`, b)
	}
	for name, row := range map[string]struct {
		do          func(r *rig)
		first, last int64
	}{
		"edit":                               {func(r *rig) { r.exec(tamperBody, 7) }, 7, 7},
		"edit in the last tile":              {func(r *rig) { r.exec(tamperBody, 610) }, 610, 610},
		"edit two":                           {func(r *rig) { r.exec(tamperBody, 400); r.exec(tamperBody, 123) }, 123, 123},
		"edit with its leaf":                 {func(r *rig) { r.exec(tamperBody, 40); r.exec(tamperLeaf, 40) }, 40, 40},
		"edit with leaf and tile: the batch": {func(r *rig) { r.exec(tamperBody, 40); r.exec(tamperLeaf, 40); r.exec(tamperTile, 40) }, 10, 299},
		"edit with leaf behind the tiles: the batch": {func(r *rig) { r.exec(tamperBody, 610); r.exec(tamperLeaf, 610) }, 600, 619},
		"edit the leaf": {func(r *rig) {
			r.exec(`UPDATE audit_batch SET leaves = set_byte(leaves, 33, (get_byte(leaves, 33) + 1) % 256) WHERE first_index = 10`)
		}, 11, 11},
		"edit the tile": {func(r *rig) {
			r.exec(`UPDATE audit_tile SET data = set_byte(data, 5, (get_byte(data, 5) + 1) % 256) WHERE idx = 1`)
		}, 256, 511},
		"edit a checkpoint": {func(r *rig) {
			r.exec(`UPDATE audit_batch SET checkpoint = set_byte(checkpoint, 3, (get_byte(checkpoint, 3) + 1) % 128) WHERE first_index = 10`)
		}, 10, 299},
		"replace a checkpoint by an older": {func(r *rig) {
			r.exec(`UPDATE audit_batch SET checkpoint = (SELECT checkpoint FROM audit_batch WHERE size = 10) WHERE first_index = 10`)
		}, 10, 299},
		"delete":          {func(r *rig) { r.exec(`DELETE FROM audit_entry WHERE leaf_index = 300`) }, 300, 300},
		"delete the last": {func(r *rig) { r.exec(`DELETE FROM audit_entry WHERE leaf_index = 619`) }, 619, 619},
		"delete and close the gap": {func(r *rig) {
			r.exec(`DELETE FROM audit_entry WHERE leaf_index = 300`)
			r.exec(`UPDATE audit_entry SET leaf_index = -leaf_index WHERE leaf_index > 300`)
			r.exec(`UPDATE audit_entry SET leaf_index = -leaf_index - 1 WHERE leaf_index < 0`)
		}, 300, 300},
		"reorder":                         {func(r *rig) { swap(r, 20, 500) }, 20, 20},
		"reorder neighbours of one batch": {func(r *rig) { swap(r, 605, 606) }, 605, 605},
		"insert at the end": {func(r *rig) {
			r.exec(`INSERT INTO audit_entry SELECT 620, 99999, at, action, object, project, outcome, body FROM audit_entry WHERE leaf_index = 0`)
		}, 620, 620},
		"insert and shift": {func(r *rig) {
			r.exec(`UPDATE audit_entry SET leaf_index = -leaf_index - 1 WHERE leaf_index >= 50`)
			r.exec(`UPDATE audit_entry SET leaf_index = -leaf_index WHERE leaf_index < 0`)
			r.exec(`INSERT INTO audit_entry SELECT 50, 99999, at, action, object, project, outcome, body FROM audit_entry WHERE leaf_index = 0`)
		}, 50, 50},
		"delete a batch row":       {func(r *rig) { r.exec(`DELETE FROM audit_batch WHERE first_index = 10`) }, 10, 10},
		"delete a tile":            {func(r *rig) { r.exec(`DELETE FROM audit_tile WHERE idx = 0`) }, 0, 255},
		"truncate entries":         {func(r *rig) { r.exec(`DELETE FROM audit_entry`) }, 0, 0},
		"cut the tail, heads left": {func(r *rig) { r.exec(`DELETE FROM audit_entry WHERE leaf_index >= 555`) }, 555, 555},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.log()
			stop := r.start(l)
			for _, n := range []int{10, 290, 300, 20} {
				r.fill(l, n)
			}
			_ = stop()
			r.intact(l)
			r.disarm()
			row.do(r)
			_, err := l.verify.VerifyExport(bytes.NewReader(r.export(l)), nil)
			if b := r.badLog(err); b.First != row.first || b.Last != row.last {
				t.Errorf("%v, want %d to %d", b, row.first, row.last)
			}
		})
	}
}

// TestForgedEntriesAreNotSigned: an administrator puts entries into the inbox,
// or changes those that wait there. The sequencer stops and signs none of them.
func TestForgedEntriesAreNotSigned(t *testing.T) {
	insert := `INSERT INTO audit_inbox (id, at, action, object, project, outcome, body, openings, mac) `
	for name, forge := range map[string]string{
		"an entry of its own": insert + `SELECT id + 1, at, action, object, project, outcome, body, openings, sha256('guess') FROM audit_inbox`,
		"the code of another": insert + `SELECT id + 1, at, action, object, project, outcome, body, openings, mac FROM audit_inbox`,
		"another body":        `UPDATE audit_inbox SET body = convert_to(replace(convert_from(body, 'UTF8'), '"success"', '"refused"'), 'UTF8')`,
		"another id":          `UPDATE audit_inbox SET id = id - 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.log()
			stop := r.start(l)
			r.fill(l, 5)
			_ = stop()
			r.append(entry(5))
			r.disarm()
			r.exec(forge)
			after := r.log()
			if err := after.Run(r.context()); !errors.Is(err, errTampered) {
				t.Errorf("the sequencer says %v", err)
			}
			if head := r.intact(l); head.Size != 5 {
				t.Errorf("%d entries are signed", head.Size)
			}
		})
	}
}

// TestForgedAnswerIsNotGiven: what stands in the log under the id that somebody
// waits for is not what was recorded, or not under the signed head.
func TestForgedAnswerIsNotGiven(t *testing.T) {
	for name, forge := range map[string]string{
		"another body":                  `UPDATE audit_entry SET body = convert_to(replace(convert_from(body, 'UTF8'), '"success"', '"refused"'), 'UTF8') WHERE id = $1`,
		"another's place":               `UPDATE audit_entry SET id = CASE id WHEN $1 THEN 0 ELSE $1 END WHERE leaf_index IN (0, (SELECT leaf_index FROM audit_entry WHERE id = $1))`,
		"a place that the head has not": `UPDATE audit_entry SET leaf_index = 2 WHERE id = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.log()
			stop := r.start(l)
			r.fill(l, 5)
			id := r.append(entry(5))
			if _, err := waitID(r.context(), l, id); err != nil {
				t.Fatal(err)
			}
			_ = stop()
			r.disarm()
			r.exec(`ALTER TABLE audit_entry DROP CONSTRAINT audit_entry_pkey CASCADE, DROP CONSTRAINT IF EXISTS audit_entry_id_key CASCADE`)
			r.exec(forge, id)
			// A process that was not there asks the database.
			if _, err := waitID(r.context(), r.log(), id); !errors.Is(err, errTampered) {
				t.Errorf("answered with %v", err)
			}
		})
	}
}

// TestReplayedEntryIsFound: an administrator puts an entry of the log into the
// inbox once more. With the database's own constraint the sequencer stops; without
// it the entry is signed twice, and anybody with an export sees that.
func TestReplayedEntryIsFound(t *testing.T) {
	const replay = `INSERT INTO audit_inbox (id, at, action, object, project, outcome, body, openings, mac)
    SELECT id, at, action, object, project, outcome, body, NULL, mac FROM audit_entry WHERE leaf_index = 3`
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	r.fill(l, 5)
	_ = stop()
	r.exec(replay)
	if err := r.log().Run(r.context()); !errors.Is(err, errTampered) || !strings.Contains(err.Error(), "has the id of one") {
		t.Errorf("with the constraint: %v", err)
	}
	r.exec(`ALTER TABLE audit_entry DROP CONSTRAINT audit_entry_id_key`)
	again := r.running()
	r.fill(again, 1)
	_, err := l.verify.VerifyExport(bytes.NewReader(r.export(again)), nil)
	if b := r.badLog(err); b.First != 5 || !strings.Contains(b.Problem, "at 3") {
		t.Errorf("without it: %v", b)
	}
}

// TestEntryBehindTheHead: somebody puts a row where the next entry belongs. The
// sequencer stops and says so.
func TestEntryBehindTheHead(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	r.fill(l, 5)
	_ = stop()
	r.exec(`INSERT INTO audit_entry SELECT 5, 1, at, action, object, project, outcome, body, mac FROM audit_entry WHERE leaf_index = 3`)
	r.append(entry(5))
	err := r.log().Run(r.context())
	if !errors.Is(err, errTampered) || !strings.Contains(err.Error(), "behind the signed head") || !strings.Contains(err.Error(), "(leaf_index)=(5)") {
		t.Errorf("the sequencer says %v", err)
	}
	if head := r.head(l); head.Size != 5 {
		t.Errorf("%d entries are signed", head.Size)
	}
}

// rollback takes the log back to a size as if the tail had never been.
func (r *rig) rollback(size int64) {
	r.disarm()
	r.exec(`DELETE FROM audit_opening WHERE leaf_index >= $1`, size)
	r.exec(`DELETE FROM audit_entry WHERE leaf_index >= $1`, size)
	r.exec(`DELETE FROM audit_batch WHERE size > $1`, size)
	r.exec(`DELETE FROM audit_tile WHERE (idx + 1) * (256::bigint ^ (level + 1)) > $1`, size)
	r.exec(`UPDATE audit_head SET size = $1, root = coalesce((SELECT decode(split_part(convert_from(checkpoint, 'UTF8'), E'\n', 3), 'base64')
    FROM audit_batch WHERE size = $1), root)`, size)
	for _, table := range []string{"audit_entry", "audit_batch", "audit_tile", "audit_head", "audit_inbox", "audit_opening"} {
		r.exec(`ALTER TABLE ` + table + ` ENABLE TRIGGER ALL`)
	}
}

// TestRollback: the whole log goes back, consistently. Nothing in the database
// can show it; an earlier checkpoint does, also after the log has grown again.
func TestRollback(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	for _, n := range []int{100, 250, 50} {
		r.fill(l, n)
	}
	saved := r.head(l)
	_ = stop()
	r.rollback(350)

	if head := r.intact(l); head.Size != 350 {
		t.Fatalf("rolled back to %d", head.Size)
	}
	_, err := l.verify.VerifyExport(bytes.NewReader(r.export(l)), &saved)
	if b := r.badLog(err); b.First != 350 || !strings.Contains(b.Problem, "rolled back") {
		t.Errorf("rolled back: %v", b)
	}

	// siestad goes on, unaware, and signs a fork.
	again := r.log()
	r.start(again)
	r.fill(again, 100)
	r.intact(again)
	_, err = l.verify.VerifyExport(bytes.NewReader(r.export(again)), &saved)
	if b := r.badLog(err); b.Last != 399 || !strings.Contains(b.Problem, "fork") {
		t.Errorf("forked: %v", b)
	}
	proof, err := again.Consistency(r.context(), saved.Size, 450)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyConsistency(saved, r.head(again), proof); err == nil {
		t.Error("a fork passes for an extension")
	}
}

// TestLastSeen: with a checkpoint remembered outside the database, the signer
// itself refuses to go on.
func TestLastSeen(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "checkpoint")
	remember := func(c *Config) { c.LastSeen = file }
	l := r.log(remember)
	stop := r.start(l)
	r.fill(l, 100)
	r.fill(l, 200)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := l.verify.Checkpoint(text); err != nil || c.Size != 300 {
		t.Fatalf("remembered size %d, %v", c.Size, err)
	}

	again := r.log(remember)
	stop = r.start(again)
	r.fill(again, 1)
	if err := stop(); err != nil {
		t.Fatalf("an honest restart: %v", err)
	}

	r.rollback(100)
	if err := r.log(remember).Run(r.context()); !errors.Is(err, errTampered) {
		t.Fatalf("after a rollback: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM audit_batch WHERE size > 100`); n != 0 {
		t.Fatal("it signed all the same")
	}

	// A fork that has grown past what was seen is refused too.
	careless := r.log()
	stop = r.start(careless)
	r.fill(careless, 500)
	_ = stop()
	if err := r.log(remember).Run(r.context()); !errors.Is(err, errTampered) {
		t.Fatalf("after a fork: %v", err)
	}
}

// TestSignerRefusesTamperedEdge: what a batch would be built on is checked first.
func TestSignerRefusesTamperedEdge(t *testing.T) {
	for name, sql := range map[string]string{
		"leaf":       `UPDATE audit_batch SET leaves = set_byte(leaves, 0, (get_byte(leaves, 0) + 1) % 256) WHERE first_index = 300`,
		"checkpoint": `UPDATE audit_batch SET checkpoint = set_byte(checkpoint, 0, 65) WHERE first_index = 300`,
		"tile":       `UPDATE audit_tile SET root = set_byte(root, 0, (get_byte(root, 0) + 1) % 256)`,
		"tile gone":  `DELETE FROM audit_tile`,
		"batch gone": `DELETE FROM audit_batch WHERE first_index = 300`,
		"all gone":   `DELETE FROM audit_batch`,
		"head":       `UPDATE audit_head SET root = sha256('x')`,
		"size":       `UPDATE audit_head SET size = 299`,
		"key":        `UPDATE audit_head SET key = 'elsewhere'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.log()
			stop := r.start(l)
			r.fill(l, 300)
			r.fill(l, 10)
			_ = stop()
			r.disarm()
			next := r.log()
			r.exec(sql)
			if err := next.Run(r.context()); !errors.Is(err, errTampered) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}

// TestFlippedBytes changes one random byte of an export: every change is found.
func TestFlippedBytes(t *testing.T) {
	r := newRig(t)
	l := r.running()
	for _, n := range []int{3, 260, 40} {
		r.fill(l, n)
	}
	export := r.export(l)
	random := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		at, bit := random.IntN(len(export)), byte(1<<random.IntN(8))
		export[at] ^= bit
		if _, err := l.verify.VerifyExport(bytes.NewReader(export), nil); err == nil {
			t.Fatalf("byte %d changed by %#x and not found", at, bit)
		}
		export[at] ^= bit
	}
	for range 50 {
		if _, err := l.verify.VerifyExport(bytes.NewReader(export[:random.IntN(len(export))]), nil); err == nil {
			t.Fatal("a cut export passes")
		}
	}
	if _, err := l.verify.VerifyExport(bytes.NewReader(append(export, '\n')), nil); err == nil {
		t.Fatal("an export with more behind it passes")
	}
}
