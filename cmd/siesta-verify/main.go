// Command siesta-verify checks what siestad and its guests say, offline: the audit
// log and its receipts, the evidence of confidential guests, stored decisions,
// launch digests, and signed reference values. It opens no network connection and
// no database, only the files it is given.
//
// Exit status: 0 what was given is true, 1 it is not, 2 it could not be judged
// (a file that cannot be read, wrong usage).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/audit"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, time.Now))
}

func run(args []string, in io.Reader, out, errs io.Writer, now func() time.Time) int {
	root := &cobra.Command{
		Use:   "siesta-verify",
		Short: "Judge evidence, replay decisions, check the audit log, launch digests and reference values, offline",
		Long: `Checks what siestad and its guests say, from files alone: no network, no database.

Exit status: 0 what was given is true, 1 it is not, 2 it could not be judged.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(logCommand(), receiptCommand(), checkpointsCommand(), digestCommand(), evidenceCommand(now), decisionCommand(), corimCommand(now))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &cannotJudge{err} })
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.Execute()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errRefused):
		// The verdict, with its reasons, is already on out.
		return 1
	}
	fmt.Fprintln(errs, "siesta-verify:", err)
	var without *cannotJudge
	if errors.As(err, &without) || usageError(err) {
		return 2
	}
	return 1
}

// errRefused ends the program with status 1 after the verdict has been printed.
var errRefused = errors.New("refused")

// cannotJudge marks an error that says nothing about the truth of the input.
type cannotJudge struct{ error }

func (e *cannotJudge) Unwrap() error { return e.error }

func unjudged(format string, args ...any) error {
	return &cannotJudge{fmt.Errorf(format, args...)}
}

// maxFile bounds every file but evidence, which has its own bounds, and an
// export, which is streamed.
const maxFile = 64 << 10

func readFile(name string) ([]byte, error) { return readInput(name, nil, maxFile) }

// readInput reads a file, or in when it is there and the name is -.
func readInput(name string, in io.Reader, limit int64) (_ []byte, err error) {
	if name != "-" || in == nil {
		file, err := os.Open(name)
		if err != nil {
			return nil, &cannotJudge{err}
		}
		defer file.Close()
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, &cannotJudge{err}
	}
	if int64(len(content)) > limit {
		return nil, unjudged("%s has more than %d bytes", name, limit)
	}
	return content, nil
}

const keyUsage = "the log's public key (name+hash+base64), or a file that holds it; required"

// verifier reads --key, which may be the key itself: it always has a plus sign
// and a hash, which a path to a file rarely has.
func verifier(key string) (audit.Verifier, error) {
	if key == "" {
		return audit.Verifier{}, &cannotJudge{errors.New("--key is missing: a signature proves nothing without the public key")}
	}
	if _, err := os.Stat(key); err == nil {
		content, err := readFile(key)
		if err != nil {
			return audit.Verifier{}, err
		}
		key = string(content)
	}
	v, err := audit.NewVerifier(key)
	if err != nil {
		return audit.Verifier{}, &cannotJudge{err}
	}
	return v, nil
}

// checkpoint reads a file that holds a checkpoint, or a receipt, whose
// checkpoint serves as well.
func checkpoint(v audit.Verifier, name string) (audit.Checkpoint, error) {
	text, err := readFile(name)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	if strings.HasPrefix(string(text), "c2sp.org/tlog-proof") {
		_, c, err := v.ReceiptCheckpoint(text)
		return c, err
	}
	c, err := v.Checkpoint(text)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// usageError recognises cobra's complaints about the command line, which have
// no type of their own.
func usageError(err error) bool {
	for _, prefix := range []string{"unknown ", "accepts ", "required flag", "if any flags in the group", "at least one of the flags in the group"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}
