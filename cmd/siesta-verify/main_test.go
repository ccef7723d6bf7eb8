package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// evidence is what a real log gave away, as files.
type evidence struct {
	key, export, receipt, entry, old, newest, proof string
	// longer is a head that the log once had and now lacks; fork and fork7 are heads
	// of the log's own key with another past.
	longer, fork, fork7 string
}

// gather runs a real log and writes its evidence into a directory.
func gather(t *testing.T, db *pgxpool.Pool) evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const origin = "log.example/verify"
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, ed25519.SeedSize))
	l, err := audit.New(t.Context(), audit.Config{DB: db, Origin: origin, Signer: private})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { ended <- l.Run(running) }()
	record := func(object string) audit.Receipt {
		var id audit.ID
		err := postgres.InTx(ctx, db, func(tx pgx.Tx) (err error) {
			id, err = l.Append(ctx, tx, audit.Entry{
				Actor:  audit.Actor{Kind: audit.Person, Subject: "https://idp.example|x"},
				Action: "workspace.create", Object: object, Outcome: audit.Success,
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		receipt, _, err := l.WaitID(ctx, id)
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
	sign := func(size int64) []byte { return signedHead(t, private, origin, size) }
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
		proof:  file("proof", []byte(audit.FormatConsistency(proof))),
		longer: file("longer", sign(9)), fork: file("fork", sign(3)), fork7: file("fork7", sign(7)),
	}
}

// signedHead is a checkpoint that the holder of the log's key can always make.
func signedHead(t *testing.T, private ed25519.PrivateKey, origin string, size int64) []byte {
	t.Helper()
	signer, err := note.NewSigner(noteKey(t, private, origin))
	if err != nil {
		t.Fatal(err)
	}
	root := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	text, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// noteKey writes a key as golang.org/x/mod/sumdb/note wants it.
func noteKey(t *testing.T, private ed25519.PrivateKey, origin string) string {
	t.Helper()
	public := append([]byte{1}, private.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(origin+"\n"), public...))
	return fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", origin, sum[:4], base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...)))
}

// stranger is the public key of somebody else's log.
func stranger(t *testing.T, origin string) string {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{6}, ed25519.SeedSize))
	key, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verify(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(args, strings.NewReader(""), &o, &e, time.Now)
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
	made := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(path string) []byte {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	empty := made("empty", nil)
	// One whole line that speaks of an entry is taken out.
	lines := bytes.SplitAfter(content, []byte("\n"))
	at := slices.IndexFunc(lines, func(l []byte) bool { return bytes.Contains(l, []byte("workspace/2")) })
	gone := made("gone", bytes.Join(slices.Delete(lines, at, at+1), nil))
	receipt := read(ev.receipt)
	shortReceipt := made("short", receipt[:len(receipt)/2])
	otherIndex := made("index", bytes.Replace(receipt, []byte("index 3"), []byte("index 2"), 1))
	otherEntry := made("entry", bytes.Replace(read(ev.entry), []byte("workspace/3"), []byte("workspace/4"), 1))
	key, err := os.ReadFile(ev.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"log":                         {[]string{"log", ev.export, "--key", ev.key}, 0, "intact: 7 entries"},
		"log, key as text":            {[]string{"log", ev.export, "--key", strings.TrimSpace(string(key))}, 0, "intact"},
		"log extends":                 {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.old}, 0, "extends the saved checkpoint of size 3"},
		"log extends a receipt":       {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.receipt}, 0, "of size 4"},
		"log edited":                  {[]string{"log", edited, "--key", ev.key}, 1, "first bad index is 2"},
		"log cut":                     {[]string{"log", cut, "--key", ev.key}, 1, "cut off"},
		"log is a receipt":            {[]string{"log", ev.receipt, "--key", ev.key}, 1, "belongs"},
		"log without key":             {[]string{"log", ev.export}, 2, "--key is missing"},
		"log with bad key":            {[]string{"log", ev.export, "--key", "nonsense"}, 2, "reading log key"},
		"log not there":               {[]string{"log", ev.export + "x", "--key", ev.key}, 2, "no such file"},
		"log from standard input":     {[]string{"log", "-", "--key", ev.key}, 1, "cut off"},
		"log is a directory":          {[]string{"log", t.TempDir(), "--key", ev.key}, 2, "is a directory"},
		"log empty":                   {[]string{"log", empty, "--key", ev.key}, 1, "cut off"},
		"log under another key":       {[]string{"log", ev.export, "--key", stranger(t, "log.example/verify")}, 1, "verifying export"},
		"log of another name":         {[]string{"log", ev.export, "--key", stranger(t, "log.example/other")}, 1, "not of this log"},
		"log with an entry gone":      {[]string{"log", gone, "--key", ev.key}, 1, "bytes of another length"},
		"log rolled back":             {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.longer}, 1, "verifying export"},
		"log of a fork":               {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.fork}, 1, "verifying export"},
		"log, checkpoint not there":   {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.old + "x"}, 2, "no such file"},
		"log, checkpoint is a dir":    {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", t.TempDir()}, 2, "is a directory"},
		"log, checkpoint nonsense":    {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", ev.proof}, 1, ev.proof},
		"log, two exports":            {[]string{"log", ev.export, ev.export, "--key", ev.key}, 2, "accepts 1 arg"},
		"receipt":                     {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", ev.entry}, 0, "entry is number 3"},
		"receipt alone":               {[]string{"receipt", ev.receipt, "--key", ev.key}, 0, "give --entry"},
		"receipt of something else":   {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", ev.proof}, 1, "verifying receipt"},
		"receipt without key":         {[]string{"receipt", ev.receipt}, 2, "--key is missing"},
		"receipt under another key":   {[]string{"receipt", ev.receipt, "--key", stranger(t, "log.example/verify"), "--entry", ev.entry}, 1, "receipt"},
		"receipt not there":           {[]string{"receipt", ev.receipt + "x", "--key", ev.key}, 2, "no such file"},
		"receipt, entry not there":    {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", ev.entry + "x"}, 2, "no such file"},
		"receipt, entry edited":       {[]string{"receipt", ev.receipt, "--key", ev.key, "--entry", otherEntry}, 1, "verifying receipt"},
		"receipt empty":               {[]string{"receipt", empty, "--key", ev.key}, 1, "reading receipt"},
		"receipt cut":                 {[]string{"receipt", shortReceipt, "--key", ev.key, "--entry", ev.entry}, 1, "receipt"},
		"receipt of another number":   {[]string{"receipt", otherIndex, "--key", ev.key, "--entry", ev.entry}, 1, "receipt"},
		"receipt too large":           {[]string{"receipt", largeFile(t), "--key", ev.key}, 2, "more than"},
		"receipt, key a directory":    {[]string{"receipt", ev.receipt, "--key", t.TempDir()}, 2, "is a directory"},
		"checkpoint as receipt":       {[]string{"receipt", ev.newest, "--key", ev.key}, 1, "reading receipt"},
		"checkpoints":                 {[]string{"checkpoints", ev.old, ev.newest, "--proof", ev.proof, "--key", ev.key}, 0, "size 7 extends the head of size 3"},
		"checkpoints backwards":       {[]string{"checkpoints", ev.newest, ev.old, "--proof", ev.proof, "--key", ev.key}, 1, "went back"},
		"checkpoints without proof":   {[]string{"checkpoints", ev.old, ev.newest, "--key", ev.key}, 2, "--proof is missing"},
		"checkpoints, other proof":    {[]string{"checkpoints", ev.receipt, ev.newest, "--proof", ev.proof, "--key", ev.key}, 1, "does not extend"},
		"the same checkpoint":         {[]string{"checkpoints", ev.old, ev.old, "--key", ev.key}, 0, "extends"},
		"checkpoints of a fork":       {[]string{"checkpoints", ev.fork, ev.newest, "--proof", ev.proof, "--key", ev.key}, 1, "does not extend"},
		"checkpoints, one size":       {[]string{"checkpoints", ev.fork7, ev.newest, "--key", ev.key}, 1, ""},
		"checkpoints, proof nonsense": {[]string{"checkpoints", ev.old, ev.newest, "--proof", ev.entry, "--key", ev.key}, 1, ""},
		"checkpoints without key":     {[]string{"checkpoints", ev.old, ev.newest, "--proof", ev.proof}, 2, "--key is missing"},
		"no command":                  {[]string{}, 0, "Exit status"},
		"help":                        {[]string{"--help"}, 0, "could not be judged"},
		"a flag without value":        {[]string{"log", ev.export, "--key"}, 2, "needs an argument"},
		"digest without flags":        {[]string{"digest"}, 2, "required flag"},
		"digest with two CPUs":        {[]string{"digest", "--firmware", "x", "--vcpus", "1", "--guest-features", "1", "--vcpu-type", "EPYC", "--vcpu-sig", "1"}, 2, "none of the others can be"},
		"digest without CPU":          {[]string{"digest", "--firmware", "x", "--vcpus", "1", "--guest-features", "1"}, 2, "--vcpu-type or --vcpu-sig is missing"},
		"digest with a bad number":    {[]string{"digest", "--vcpus", "one"}, 2, "invalid argument"},
		"digest without firmware":     {[]string{"digest", "--firmware", ev.key + "x", "--vcpus", "1", "--guest-features", "1", "--vcpu-sig", "1"}, 2, "reading firmware"},
		"unknown command":             {[]string{"bless", ev.old}, 2, "unknown command"},
		"unknown flag":                {[]string{"log", ev.export, "--trust"}, 2, "unknown flag"},
		"too few arguments":           {[]string{"checkpoints", ev.old, "--key", ev.key}, 2, "accepts 2 arg"},
		"digest is there":             {[]string{"digest", "--help"}, 0, "launch digest"},
		"a large file as checkpoint":  {[]string{"log", ev.export, "--key", ev.key, "--checkpoint", largeFile(t)}, 2, "more than"},
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
