package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// evidence is what a real log gave away, as files.
type evidence struct {
	key, export, receipt, entry, old, newest, proof string
}

// gather runs a real log and writes its evidence into a directory.
func gather(t *testing.T, db *pgxpool.Pool) evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const origin = "log.example/verify"
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, ed25519.SeedSize))
	l, err := audit.New(audit.Config{DB: db, Origin: origin, Signer: private})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { ended <- l.Run(running) }()
	record := func(object string) audit.Receipt {
		var id audit.ID
		err := postgres.InTx(ctx, db, func(tx pgx.Tx) (err error) {
			id, err = audit.Append(ctx, tx, audit.Entry{
				Actor:  audit.Actor{Kind: audit.Person, Subject: "https://idp.example|x"},
				Action: "workspace.create", Object: object, Outcome: audit.Success,
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := l.Wait(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return receipt
	}
	must := func(content []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	for i := range 3 {
		record("workspace/" + strconv.Itoa(i))
	}
	old := must(l.Checkpoint(ctx))
	receipt := record("workspace/3")
	kept, err := l.Get(ctx, receipt.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		record("workspace/" + strconv.Itoa(4+i))
	}
	proof, err := l.Consistency(ctx, 3, 7)
	if err != nil {
		t.Fatal(err)
	}
	var export bytes.Buffer
	if err := l.Export(ctx, &export); err != nil {
		t.Fatal(err)
	}
	newest := must(l.Checkpoint(ctx))
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return evidence{
		key: file("key", []byte(l.Key()+"\n")), export: file("export", export.Bytes()), receipt: file("receipt", []byte(receipt.Proof)),
		entry: file("entry", kept.Body), old: file("old", old), newest: file("newest", newest),
		proof: file("proof", []byte(audit.FormatConsistency(proof))),
	}
}

func verify(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

func TestVerify(t *testing.T) {
	ev := gather(t, pgtest.New(t))
	edited := filepath.Join(t.TempDir(), "edited")
	content, err := os.ReadFile(ev.export)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(edited, bytes.Replace(content, []byte("workspace/2"), []byte("workspace/9"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, content[:len(content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(ev.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"log":                        {[]string{"log", ev.export, "--key", ev.key}, 0, "intact: 7 entries"},
		"log, key as text":           {[]string{"log", ev.export, "--key", strings.TrimSpace(string(key))}, 0, "intact"},
		"log extends":                {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.old}, 0, "extends the saved checkpoint of size 3"},
		"log extends a receipt":      {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.receipt}, 0, "of size 4"},
		"log edited":                 {[]string{"log", edited, "--key", ev.key}, 1, "first bad index is 2"},
		"log cut":                    {[]string{"log", cut, "--key", ev.key}, 1, "cut off"},
		"log is a receipt":           {[]string{"log", ev.receipt, "--key", ev.key}, 1, "belongs"},
		"log without key":            {[]string{"log", ev.export}, 2, "--key is missing"},
		"log with bad key":           {[]string{"log", ev.export, "--key", "nonsense"}, 2, "reading log key"},
		"log not there":              {[]string{"log", ev.export + "x", "--key", ev.key}, 2, "no such file"},
		"log from standard input":    {[]string{"log", "-", "--key", ev.key}, 1, "cut off"},
		"receipt":                    {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", ev.entry}, 0, "entry is number 3"},
		"receipt alone":              {[]string{"receipt", ev.receipt, "--key", ev.key}, 0, "give --entry"},
		"receipt of something else":  {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", ev.proof}, 1, "verifying receipt"},
		"checkpoint as receipt":      {[]string{"receipt", ev.newest, "--key", ev.key}, 1, "reading receipt"},
		"checkpoints":                {[]string{"checkpoints", ev.old, ev.newest, "--proof", ev.proof, "--key", ev.key}, 0, "size 7 extends the head of size 3"},
		"checkpoints backwards":      {[]string{"checkpoints", ev.newest, ev.old, "--proof", ev.proof, "--key", ev.key}, 1, "went back"},
		"checkpoints without proof":  {[]string{"checkpoints", ev.old, ev.newest, "--key", ev.key}, 2, "--proof is missing"},
		"checkpoints, other proof":   {[]string{"checkpoints", ev.receipt, ev.newest, "--proof", ev.proof, "--key", ev.key}, 1, "does not extend"},
		"the same checkpoint":        {[]string{"checkpoints", ev.old, ev.old, "--key", ev.key}, 0, "extends"},
		"unknown command":            {[]string{"bless", ev.old}, 2, "unknown command"},
		"unknown flag":               {[]string{"log", ev.export, "--trust"}, 2, "unknown flag"},
		"too few arguments":          {[]string{"checkpoints", ev.old, "--key", ev.key}, 2, "accepts 2 arg"},
		"digest is there":            {[]string{"digest", "--help"}, 0, "launch digest"},
		"a large file as checkpoint": {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", largeFile(t)}, 2, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := verify(row.args...)
			if status != row.status || !strings.Contains(out+errs, row.says) {
				t.Errorf("status %d, want %d; output %q %q does not say %q", status, row.status, out, errs, row.says)
			}
		})
	}
}

func largeFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
