package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/audit"
)

func logCommand() *cobra.Command {
	var key, saved string
	cmd := &cobra.Command{
		Use:   "log EXPORT",
		Short: "Check a whole exported log, and name the first bad index",
		Long: `Checks every entry, every signed head and every tile of an export of the audit
log. EXPORT may be - for standard input. With --checkpoint, also checks that the
log still extends a checkpoint or receipt that was saved earlier: only that can
show that a whole log was rolled back.`,
		Example: `  siesta audit export > log.export
  siesta-verify log log.export --key log.pub --checkpoint saved.checkpoint`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := verifier(key)
			if err != nil {
				return err
			}
			var earlier *audit.Checkpoint
			if saved != "" {
				c, err := checkpoint(v, saved)
				if err != nil {
					return err
				}
				earlier = &c
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return &cannotJudge{err}
				}
				defer file.Close()
				in = file
			}
			source := &source{in: in}
			sum, err := v.VerifyExport(source, earlier)
			switch {
			case source.failed != nil:
				return unjudged("reading the export: %w", source.failed)
			case err != nil:
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the log %s is intact: %d entries under %d signed heads, root %s\n",
				sum.Checkpoint.Origin, sum.Checkpoint.Size, sum.Batches, sum.Checkpoint.Root)
			if earlier != nil {
				fmt.Fprintf(cmd.OutOrStdout(), "it extends the saved checkpoint of size %d\n", earlier.Size)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", keyUsage)
	cmd.Flags().StringVar(&saved, "checkpoint", "", "a checkpoint or receipt saved earlier")
	return cmd
}

// source remembers that the export could not be read, which says nothing about
// the log.
type source struct {
	in     io.Reader
	failed error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = err
	}
	return n, err
}

func receiptCommand() *cobra.Command {
	var key, entry string
	cmd := &cobra.Command{
		Use:   "receipt FILE",
		Short: "Check a receipt, and that it is for an entry",
		Long: `Checks the receipt of one entry (a C2SP tlog-proof). With --entry, a file with
exactly the stored bytes of the entry, checks that the log contains it. Without,
only the signature under the receipt can be checked, and the output says so.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := verifier(key)
			if err != nil {
				return err
			}
			text, err := readFile(args[0])
			if err != nil {
				return err
			}
			if entry == "" {
				index, c, err := v.ReceiptCheckpoint(text)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "the head of size %d is signed by %s; give --entry to check that entry %d is under it\n",
					c.Size, c.Origin, index)
				return nil
			}
			body, err := readFile(entry)
			if err != nil {
				return err
			}
			index, c, err := v.Receipt(text, body)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the entry is number %d of the log %s, under its signed head of size %d\n", index, c.Origin, c.Size)
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", keyUsage)
	cmd.Flags().StringVar(&entry, "entry", "", "file with the stored bytes of the entry")
	return cmd
}

func checkpointsCommand() *cobra.Command {
	var key, proof string
	cmd := &cobra.Command{
		Use:   "checkpoints OLD NEW",
		Short: "Check that one checkpoint extends another",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := verifier(key)
			if err != nil {
				return err
			}
			old, err := checkpoint(v, args[0])
			if err != nil {
				return err
			}
			next, err := checkpoint(v, args[1])
			if err != nil {
				return err
			}
			var text []byte
			switch {
			case proof != "":
				if text, err = readFile(proof); err != nil {
					return err
				}
			case old.Size > 0 && old.Size < next.Size:
				return &cannotJudge{errors.New("--proof is missing: two different sizes need a consistency proof")}
			}
			hashes, err := audit.ParseConsistency(text)
			if err != nil {
				return err
			}
			if err := audit.VerifyConsistency(old, next, hashes); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the head of size %d extends the head of size %d of the log %s\n", next.Size, old.Size, next.Origin)
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", keyUsage)
	cmd.Flags().StringVar(&proof, "proof", "", "consistency proof: one base64 hash a line")
	return cmd
}
