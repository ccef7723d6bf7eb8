package audit

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
	"github.com/eosc-siesta/siestad/migrations"
)

var strangeKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))

// refusesStrangers tries programs with another key or origin. They must not so
// much as record, or the log would stop at what they recorded.
func (r *rig) refusesStrangers(when string) {
	r.Helper()
	for name, c := range map[string]Config{
		"another key":    {DB: r.db, Origin: origin, Signer: strangeKey},
		"another origin": {DB: r.db, Origin: "log.example/other", Signer: testKey},
	} {
		if _, err := New(r.context(), c); err == nil || !strings.Contains(err.Error(), "set log.key_file and log.origin") {
			r.Errorf("%s, %s, leads: %v", when, name, err)
		}
		if _, err := OpenRecorder(r.context(), r.db, c.Origin, c.Signer); err == nil {
			r.Errorf("%s, %s, records", when, name)
		}
	}
}

// TestWrongKeyRefuses: a log has its key from the first program on.
func TestWrongKeyRefuses(t *testing.T) {
	r := newRig(t)
	r.refusesStrangers("before anything was recorded")
	r.append(entry(0))
	r.refusesStrangers("before anybody led")
	l := r.log()
	stop := r.start(l)
	r.fill(l, 1)
	_ = stop()
	r.refusesStrangers("once signed")
}

// TestOneKeyWins: of programs with different keys that start at once on an empty
// log, those with one key do.
func TestOneKeyWins(t *testing.T) {
	r := &rig{T: t, db: pgtest.New(t)}
	var opened [2]int
	var mu sync.Mutex
	var programs sync.WaitGroup
	for i := range 12 {
		programs.Go(func() {
			_, err := OpenRecorder(r.context(), r.db, origin, []ed25519.PrivateKey{testKey, strangeKey}[i%2])
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				opened[i%2]++
			} else if !strings.Contains(err.Error(), "log.key_file") {
				t.Error(err)
			}
		})
	}
	programs.Wait()
	if opened != [2]int{6, 0} && opened != [2]int{0, 6} {
		t.Errorf("%d programs with one key and %d with the other", opened[0], opened[1])
	}
}

// TestKeyOfWhatWaits: where nobody has led yet, the log's key is the one that its entries were recorded with.
func TestKeyOfWhatWaits(t *testing.T) {
	r := newRig(t)
	r.append(entry(0))
	r.exec(`ALTER TABLE audit_head DISABLE TRIGGER forward`)
	r.exec(`UPDATE audit_head SET key = ''`)
	r.exec(`ALTER TABLE audit_head ENABLE ALWAYS TRIGGER forward`)
	if _, err := OpenRecorder(r.context(), r.db, origin, strangeKey); err == nil || !strings.Contains(err.Error(), "log.key_file") {
		t.Errorf("a stranger's key became the log's: %v", err)
	}
	r.program()
}

// TestUpgrade from before logs had keys and programs spans: only the key that has
// signed becomes the log's, and ids go on above those that are there.
func TestUpgrade(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	r.fill(l, 3)
	_ = stop()
	const late = 1 << 62 // of a clock that was far ahead
	r.exec(`INSERT INTO audit_inbox SELECT $1, at, action, object, project, outcome, body, NULL, $2 FROM audit_entry WHERE leaf_index = 0`, int64(late), r.recorder.mac(late, tlog.RecordHash(r.get(l, 0).Body)))
	r.exec(`DROP TABLE audit_program`)
	r.exec(`DROP FUNCTION audit_program_forward`)
	r.exec(`CREATE SEQUENCE audit_program`)
	r.exec(`ALTER TABLE audit_head DROP COLUMN key, ADD COLUMN origin text NOT NULL DEFAULT ''`)
	body, err := migrations.FS.ReadFile("0015_audit_program.sql")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := r.db.Acquire(r.context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Conn().PgConn().Exec(r.context(), string(body)).ReadAll()
	conn.Release()
	if err != nil {
		t.Fatal(err)
	}
	r.db.Reset() // what was prepared for the tables of before

	r.refusesStrangers("upgraded")
	if n := r.count(`SELECT count(*) FROM audit_head WHERE key = ''`); n != 1 {
		t.Error("a stranger's key became the log's")
	}
	if id, err := r.program().next(time.Now()); err != nil || id <= late {
		t.Errorf("id %d is not above those from before: %v", id, err)
	}
	if n := r.count(`SELECT count(*) FROM audit_head WHERE key = $1`, l.Key()); n != 1 {
		t.Error("the key that signed did not become the log's")
	}
}
