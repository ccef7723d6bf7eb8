//go:build devtee

package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// Teller goes through the whole path with the real command line, as four people and one attacker.
type Teller struct {
	State
	Dir   string // of the demo
	Bin   string
	Guest string
	Out   io.Writer

	Image     string // known after Prepare
	Workspace string // known after Create
}

// Where a workspace of the story may be.
var (
	onSNP = []string{"--site", Site, "--flavor", Flavor}
	onTDX = []string{"--site", DomainSite, "--flavor", DomainFlavor}
)

// Tell runs the whole story.
func (t *Teller) Tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{t.Prepare, t.Create, t.Reboot, t.Attacks, t.Delete, t.TrustDomain, t.Verify} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Subject is how the service knows a person.
func (s State) Subject(user string) string { return s.Issuer + "|" + user }

// Prepare: an operator registers an image and a project, a custodian approves, registers a dataset and grants a permit.
func (t *Teller) Prepare(ctx context.Context) error {
	for _, person := range People {
		if err := t.Login(ctx, person.Name); err != nil {
			return err
		}
	}
	t.say("An operator uploads a guest image and registers it. She may not approve it herself; a custodian does.")
	out, err := t.CLI(ctx, "olga", "image", "upload", "debian-guest", "--kernel", filepath.Join(t.Guest, "vmlinuz"),
		"--initrd", filepath.Join(t.Guest, "initrd-devtee.img"), "--firmware", filepath.Join(t.Dir, "firmware.fd"), "-o", "json")
	if err != nil {
		return err
	}
	if t.Image, err = field(out, "id"); err != nil {
		return err
	}
	if _, err := t.CLI(ctx, "olga", "image", "approve", t.Image); err == nil {
		return errors.New("the operator approved her own image")
	}
	t.say("A project, a dataset, and a permit that joins them for one person.")
	for _, step := range [][]string{
		{"carlo", "image", "approve", t.Image},
		{"olga", "project", "create", "flu", "--name", "Influenza 2026", "--until", "2099-12-31", "--member", t.Subject("rita")},
		{"carlo", "dataset", "create", "cohort-1", "--title", "Hospital cohort", "--version", "1"},
		{"carlo", "permit", "grant", "--project", "flu", "--dataset", "cohort-1", "--person", t.Subject("rita"), "--until", "2099-12-31"},
	} {
		if _, err := t.CLI(ctx, step[0], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// CreateArgs is the command that asks for the workspace of the story.
func (t *Teller) CreateArgs(name string) []string {
	return t.createArgs(name, onSNP)
}

func (t *Teller) createArgs(name string, place []string) []string {
	return append([]string{"workspace", "create", name, "--project", "flu", "--dataset", "cohort-1", "--image", t.Image}, place...)
}

// Create: a researcher asks for a workspace and watches its steps.
func (t *Teller) Create(ctx context.Context) error {
	t.say("A researcher creates a workspace: a real guest boots, proves what it is, formats its disk with a key released to it alone.")
	return t.create(ctx, "my-analysis", onSNP)
}

func (t *Teller) create(ctx context.Context, name string, place []string) error {
	out, err := t.CLI(ctx, "rita", append(t.createArgs(name, place), "--wait")...)
	if err != nil {
		return err
	}
	if t.Workspace, err = workspaceIn(out); err != nil {
		return err
	}
	return t.expectBoot(ctx, 1)
}

// expectBoot reads what the guest itself found in the journal on its encrypted disk.
func (t *Teller) expectBoot(ctx context.Context, n int) error {
	out, err := t.CLI(ctx, "rita", "explain", t.Workspace)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("boot %d of this volume", n); !strings.Contains(out, want) {
		return fmt.Errorf("the guest does not report %q", want)
	}
	return nil
}

// Reboot: the file written at the first boot is still there.
func (t *Teller) Reboot(ctx context.Context) error {
	t.say("A reboot: the key is released again to the same guest, which finds the file it wrote on the encrypted disk.")
	if _, err := t.CLI(ctx, "rita", "workspace", "reboot", t.Workspace, "--wait"); err != nil {
		return err
	}
	return t.expectBoot(ctx, 2)
}

// Attacks: the operator of the cloud tries two things.
func (t *Teller) Attacks(ctx context.Context) error {
	for _, a := range []struct {
		kind Attack
		text string
	}{
		{Tamper, "The cloud's operator boots the guest with one more word on its command line. Its report is genuine, its measurement is another: refused."},
		{Clone, "The cloud's operator boots a copy of guest and disk. Nobody asked for a second boot: refused, and the generation is suspended."},
	} {
		t.say(a.text)
		console, err := t.Attack(ctx, a.kind, t.Workspace)
		if err != nil {
			return err
		}
		refused := lastLines(console, 3)
		fmt.Fprintf(t.Out, "  guest's console: %s\n", strings.Join(refused, "\n                   "))
		if strings.Contains(console, "unlocked") {
			return fmt.Errorf("the %s unlocked the disk:\n%s", a.kind, console)
		}
	}
	if _, err := t.CLI(ctx, "axel", "audit", "list", "--outcome", "refused", "--object", "workspace/"+t.Workspace); err != nil {
		return err
	}
	_, err := t.CLI(ctx, "rita", "explain", t.Workspace)
	return err
}

// Delete: the key is destroyed first.
func (t *Teller) Delete(ctx context.Context) error {
	t.say("Deletion shreds the key first, then removes server, volumes, port and secret.")
	_, err := t.CLI(ctx, "rita", "workspace", "delete", t.Workspace, "--wait")
	return err
}

// TrustDomain: the same at a site whose processors are Intel's.
func (t *Teller) TrustDomain(ctx context.Context) error {
	t.say("The same on Intel TDX: firmware and kernel, line and initrd are in registers of a quote, and an event log says how they came there.")
	if err := t.create(ctx, "my-trust-domain", onTDX); err != nil {
		return err
	}
	for _, chapter := range []func(context.Context) error{t.Reboot, t.Attacks, t.Delete} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Verify: an auditor takes the log home and checks it without trusting anyone.
func (t *Teller) Verify(ctx context.Context) error {
	t.say("An auditor exports the log and verifies it offline.")
	export := filepath.Join(t.Dir, "log.export")
	if _, err := t.CLI(ctx, "axel", "audit", "export", export); err != nil {
		return err
	}
	_, err := t.run(ctx, nil, "siesta-verify", "log", export, "--key", filepath.Join(t.Dir, "keys", "log.pub"))
	return err
}

// Login goes through the real device flow as a test user; the lab says yes.
func (t *Teller) Login(ctx context.Context, user string) error {
	code := regexp.MustCompile(`confirm the code (\S+)`)
	var approval error
	var once sync.Once
	watch := func(line string) {
		if m := code.FindStringSubmatch(line); m != nil {
			once.Do(func() { approval = t.Approve(ctx, m[1], user) })
		}
	}
	_, err := t.run(ctx, watch, "siesta", "login", "--issuer", t.Issuer, "user", user)
	return errors.Join(approval, err)
}

// CLI runs the command line as a person and returns what it printed; it is shown as it comes.
func (t *Teller) CLI(ctx context.Context, user string, args ...string) (string, error) {
	return t.run(ctx, nil, "siesta", append(args, "user", user)...)
}

// run starts a program; the last two arguments "user", NAME say as whom siesta runs.
func (t *Teller) run(ctx context.Context, watch func(string), program string, args ...string) (string, error) {
	who := ""
	if n := len(args); n >= 2 && args[n-2] == "user" {
		who, args = args[n-1], args[:n-2]
	}
	cmd := exec.CommandContext(ctx, filepath.Join(t.Bin, program), args...)
	cmd.Env = append(os.Environ(), "SIESTA_SERVER="+t.Server, "SIESTA_CONFIG_DIR="+filepath.Join(t.Dir, "people", who))
	prompt := "$"
	if who != "" {
		prompt = who + "$"
	}
	fmt.Fprintf(t.Out, "\n%s %s %s\n", prompt, program, strings.Join(args, " "))

	reader, writer := io.Pipe()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, writer), writer
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			fmt.Fprintf(t.Out, "  %s\n", lines.Text())
			if watch != nil {
				watch(lines.Text())
			}
		}
		_, _ = io.Copy(io.Discard, reader)
	}()
	err := cmd.Run()
	writer.Close()
	<-shown
	if err != nil {
		return out.String(), fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return out.String(), nil
}

func (t *Teller) say(text string) { fmt.Fprintf(t.Out, "\n== %s\n", text) }

func field(answer, name string) (string, error) {
	var v map[string]any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		return "", fmt.Errorf("reading an answer: %w", err)
	}
	value, ok := v[name].(string)
	if !ok {
		return "", fmt.Errorf("the answer has no %s", name)
	}
	return value, nil
}

// workspaceIn finds the id in the last line of a followed operation ("create of workspace ID: succeeded").
func workspaceIn(out string) (string, error) {
	m := regexp.MustCompile(`of workspace ([0-9a-z]{26}): succeeded`).FindStringSubmatch(out)
	if m == nil {
		return "", errors.New("the operation names no workspace that succeeded")
	}
	return m[1], nil
}

func lastLines(text string, n int) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var kept []string
	for _, line := range lines {
		if strings.HasPrefix(line, "siesta") {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	if len(kept) == 0 {
		kept = lines
	}
	return kept[max(0, len(kept)-n):]
}
