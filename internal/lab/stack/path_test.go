//go:build devtee && qemu

package stack_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/lab/stack"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// rig is a stack under test with somebody to tell stories on it.
type rig struct {
	*stack.Stack
	teller *stack.Teller
	dir    string
	dsn    string
}

func newRig(t *testing.T, lease time.Duration) rig {
	t.Helper()
	bin, guest := os.Getenv("SIESTA_TEST_BIN"), os.Getenv("SIESTA_TEST_GUEST")
	if bin == "" || guest == "" {
		t.Fatal("SIESTA_TEST_BIN and SIESTA_TEST_GUEST must name the development programs and the guest's files; scripts/test sets them")
	}
	r := rig{dir: t.TempDir(), dsn: pgtest.DSN(t)}
	var err error
	r.Stack, err = stack.Start(t.Context(), stack.Config{Dir: r.dir, Bin: bin, Guest: guest, Database: r.dsn, Logger: zap.NewNop(), FlowLease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.teller = &stack.Teller{State: r.State, Dir: r.dir, Bin: bin, Guest: guest, Out: t.Output()}
	return r
}

// The whole path, and then: nothing secret in any log of it, at debug level.
func TestWholePath(t *testing.T) {
	r := newRig(t, 0)
	if err := r.teller.Tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	secrets := r.secrets(t)
	for _, kind := range []string{"token", "nonce", "evidence", "private key", "credential", "keyring"} {
		if len(secrets[kind]) == 0 {
			t.Errorf("the search knows no %s to look for: it would find nothing", kind)
		}
	}
	logs, err := filepath.Glob(filepath.Join(r.dir, "*.log"))
	if err != nil || len(logs) < 2 {
		t.Fatalf("looking for logs: %v, %v", logs, err)
	}
	for _, log := range logs {
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for kind, list := range secrets {
			for _, secret := range list {
				if bytes.Contains(content, []byte(secret)) {
					t.Errorf("%s holds a %s", filepath.Base(log), kind)
				}
			}
		}
	}
}

// secrets collects what must not be in a log, in every form in which it could be there.
func (r rig) secrets(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	add := func(kind string, raw []byte) {
		if len(raw) == 0 {
			return
		}
		found[kind] = append(found[kind], hex.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw))
	}
	sessions, err := filepath.Glob(filepath.Join(r.dir, "people", "*", "session.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sessions {
		var s struct {
			Token struct {
				AccessToken string `json:"access_token"`
			} `json:"token"`
		}
		if err := json.Unmarshal(read(t, path), &s); err != nil {
			t.Fatal(err)
		}
		if s.Token.AccessToken != "" {
			found["token"] = append(found["token"], s.Token.AccessToken)
		}
	}
	for _, name := range []string{"broker.pem", "log.pem"} {
		block, _ := pem.Decode(read(t, filepath.Join(r.dir, "keys", name)))
		add("private key", block.Bytes[len(block.Bytes)-32:])
	}
	for _, name := range []string{"compute.yaml", "keys.yaml"} {
		_, secret, _ := strings.Cut(string(read(t, filepath.Join(r.dir, name))), "application_credential_secret: ")
		found["credential"] = append(found["credential"], strings.TrimSpace(secret))
	}
	var keyring struct {
		Roots []struct {
			Key []byte `json:"key"`
		} `json:"roots"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(r.dir, "keys", "keyring")), &keyring); err != nil {
		t.Fatal(err)
	}
	for _, root := range keyring.Roots {
		add("keyring", root.Key)
	}
	db, err := postgres.Open(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for kind, query := range map[string]string{
		"nonce": `SELECT nonce FROM broker_challenge`,
		// 48 bytes from the middle of a kept body: enough to be nothing else, and a multiple of three, so that Base64 of
		// the whole shows them in one of three shapes, of which the first is looked for.
		"evidence": `SELECT substring(body FROM 145 FOR 48) FROM broker_blob WHERE length(body) > 1000`,
	} {
		rows, err := db.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range list {
			add(kind, raw)
		}
	}
	return found
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// kill -9 of the daemon at twenty random moments of a create and a delete: both converge, with one of each resource ever
// made and nothing left.
func TestKilledAtTwentyMoments(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t, 2*time.Second)
	if err := r.teller.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, living := map[string]int{}, map[string]int{}
	for _, kind := range []string{"server", "port", "security group", "volume", "secret", "image"} {
		made[kind], living[kind] = r.Cloud.Created(kind), r.Cloud.Living(kind)
	}
	out, err := r.teller.CLI(t.Context(), "rita", append(r.teller.CreateArgs("survivor"), "-o", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	create := operationIn(t, out)
	r.killAndRestart(t, random, 10)
	r.finish(t, create.ID)

	for kind, want := range map[string]int{"server": 1, "port": 1, "security group": 1, "volume": 2, "secret": 1} {
		if got := r.Cloud.Living(kind) - living[kind]; got != want {
			t.Errorf("%d of kind %s are there, want %d", got, kind, want)
		}
		// Every start of the daemon makes and deletes a secret of its own, to see whether others could read it.
		if got := r.Cloud.Created(kind) - made[kind]; got != want && kind != "secret" {
			t.Errorf("%d of kind %s were made, want %d", got, kind, want)
		}
	}

	if out, err = r.teller.CLI(t.Context(), "rita", "workspace", "delete", create.Workspace, "-o", "json"); err != nil {
		t.Fatal(err)
	}
	r.killAndRestart(t, random, 10)
	r.finish(t, operationIn(t, out).ID)
	for kind, before := range living {
		if now := r.Cloud.Living(kind); now != before {
			t.Errorf("%d of kind %s are left behind", now-before, kind)
		}
	}
	if err := r.teller.Verify(t.Context()); err != nil {
		t.Errorf("the log after twenty kills: %v", err)
	}
}

// killAndRestart ends the daemon after a random part of two seconds of work, n times over.
func (r rig) killAndRestart(t *testing.T, random *rand.Rand, n int) {
	t.Helper()
	for range n {
		<-time.After(time.Duration(random.Int64N(int64(2 * time.Second)))) // the moment is what is random here; nothing is awaited
		r.KillDaemon()
		if err := r.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func (r rig) finish(t *testing.T, operation string) {
	t.Helper()
	if _, err := r.teller.CLI(t.Context(), "rita", "operation", "watch", operation); err != nil {
		t.Fatal(err)
	}
}

type operation struct {
	ID        string `json:"id"`
	Workspace string `json:"workspace"`
}

func operationIn(t *testing.T, out string) operation {
	t.Helper()
	var op operation
	if err := json.Unmarshal([]byte(out), &op); err != nil {
		t.Fatalf("reading an operation: %v\n%s", err, out)
	}
	return op
}
