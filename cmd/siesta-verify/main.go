// Command siesta-verify checks what siestad's audit log says, offline: it opens
// no network connection and no database, only the files it is given.
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

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/audit"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, in io.Reader, out, errs io.Writer) int {
	root := &cobra.Command{
		Use:           "siesta-verify",
		Short:         "Check siestad's audit log, its receipts and launch digests, offline",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(logCommand(), receiptCommand(), checkpointsCommand(), digestCommand())
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "siesta-verify:", err)
	var unjudged *cannotJudge
	if errors.As(err, &unjudged) || usageError(err) {
		return 2
	}
	return 1
}

// cannotJudge marks an error that says nothing about the truth of the input.
type cannotJudge struct{ error }

func (e *cannotJudge) Unwrap() error { return e.error }

// maxFile bounds every file but an export, which is streamed.
const maxFile = 64 << 10

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, &cannotJudge{err}
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, &cannotJudge{err}
	}
	if len(content) > maxFile {
		return nil, &cannotJudge{fmt.Errorf("%s has more than %d bytes", name, maxFile)}
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
	for _, prefix := range []string{"unknown ", "accepts ", "required flag", "flag needs", "invalid argument"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}
