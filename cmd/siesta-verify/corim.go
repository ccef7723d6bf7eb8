package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/corim"
)

// corimCommand shows signed reference values, once it is sure who signed them.
func corimCommand(now func() time.Time) *cobra.Command {
	var keys []string
	var at, output string
	cmd := &cobra.Command{
		Use:   "corim FILE",
		Short: "Verify signed reference values and print them",
		Long: `Verifies a CoRIM document (draft-ietf-rats-corim) under a COSE signature and prints
which values it gives to what. Nothing of it is shown unless one of the keys signed
it and it is good at that time. FILE may be - for standard input.

Exit status: 0 signed and good, 1 not, 2 it could not be judged.`,
		Example: `  siesta workspace reference-values 01j… --out values.cose
  siesta-verify corim values.cose --key siesta.example.org.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return unjudged("-o %s: the output is either table or json", output)
			}
			when := now()
			if cmd.Flags().Changed("at") {
				var err error
				if when, err = time.Parse(time.RFC3339, at); err != nil {
					return unjudged("--at is %q; write a time such as 2026-11-24T00:00:00Z", at)
				}
			}
			trusted, err := corimKeys(keys)
			if err != nil {
				return err
			}
			body, err := readInput(args[0], cmd.InOrStdin(), corim.MaxSize)
			if err != nil {
				return err
			}
			signed, err := corim.Verify(body, trusted, when)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				err = enc.Encode(signed)
			} else {
				err = writeValues(cmd.OutOrStdout(), signed)
			}
			if err != nil {
				return unjudged("writing the values: %w", err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&keys, "key", nil, "`file` with the signer's public key (PEM: P-256, P-384, Ed25519); may be repeated, and one is required")
	flags.StringVar(&at, "at", "", "`time` of the verdict in RFC 3339 (default now)")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func corimKeys(files []string) (keys []corim.PublicKey, err error) {
	if len(files) == 0 {
		return nil, &cannotJudge{errors.New("--key is missing: a signature proves nothing without the public key")}
	}
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			return nil, err
		}
		key, err := corim.ParsePublicKey(text)
		if err != nil {
			return nil, unjudged("--key %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func writeValues(w io.Writer, s corim.Signed) error {
	var b strings.Builder
	tab := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	d := s.Document
	for _, line := range [][2]string{
		{"document", d.ID},
		{"profile", d.Profile},
		{"author", d.Author},
		{"signed by", s.Signer},
		{"key", s.Key},
		{"good from", instant(d.NotBefore)},
		{"good until", instant(s.Until())},
		{"passed over", strings.Join(d.Passed, "; ")},
	} {
		if line[1] != "" {
			fmt.Fprintf(tab, "%s\t%s\n", line[0], line[1])
		}
	}
	for _, tag := range d.Tags {
		fmt.Fprintf(tab, "\ntag\t%s\n", tag.ID)
		if tag.Author != "" {
			fmt.Fprintf(tab, "author\t%s\n", tag.Author)
		}
		fmt.Fprintln(tab, "OF\tVALUE")
		for _, v := range tag.Values {
			of := v.Subject()
			for _, value := range valueCells(v) {
				fmt.Fprintf(tab, "%s\t%s\n", of, value)
				of = ""
			}
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// valueCells are the values of one thing, whole: somebody compares them.
func valueCells(v corim.Value) (cells []string) {
	for _, digest := range v.Digests {
		cells = append(cells, fmt.Sprintf("%s %x", digest.Algorithm, []byte(digest.Value)))
	}
	if v.SVN != nil {
		cells = append(cells, fmt.Sprintf("security version %d", *v.SVN))
	}
	if v.MinSVN != nil {
		cells = append(cells, fmt.Sprintf("security version %d or later", *v.MinSVN))
	}
	switch unprintable := func(r rune) bool { return !unicode.IsPrint(r) }; {
	case v.Raw == nil:
	case utf8.Valid(v.Raw) && !strings.ContainsFunc(string(v.Raw), unprintable):
		cells = append(cells, fmt.Sprintf("text %s", string(v.Raw)))
	default:
		cells = append(cells, fmt.Sprintf("bytes %x", []byte(v.Raw)))
	}
	if len(cells) == 0 {
		cells = []string{"none that is read here"}
	}
	return cells
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
