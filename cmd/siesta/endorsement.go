package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/corim"
)

type endorsementView struct {
	ID         string `json:"id"`
	SHA256     string `json:"sha256"`
	CorimID    string `json:"corim_id"`
	Signer     string `json:"signer"`
	SignerKey  string `json:"signer_key"`
	Digests    int    `json:"digests"`
	NotAfter   string `json:"not_after"`
	ImportedBy string `json:"imported_by"`
	ImportedAt string `json:"imported_at"`
	Document   []byte `json:"document"`
}

type imageEndorsementView struct {
	File        string `json:"file"`
	Subject     string `json:"subject"`
	Endorsement string `json:"endorsement"`
	CorimID     string `json:"corim_id"`
	Signer      string `json:"signer"`
	SignerKey   string `json:"signer_key"`
	NotAfter    string `json:"not_after"`
}

var showEndorsement = show(func(v endorsementView) []string {
	return []string{
		"id", v.ID, "document", v.CorimID, "sha256", v.SHA256, "signer", v.Signer, "signer's key", v.SignerKey, "digests of files", strconv.Itoa(v.Digests),
		"not after", v.NotAfter, "imported by", v.ImportedBy, "imported at", v.ImportedAt,
	}
})

func (a *app) endorsement() *cobra.Command {
	cmd := &cobra.Command{Use: "endorsement", Short: "Import what others sign about files (CoRIM documents)"}
	cmd.AddCommand(
		&cobra.Command{Use: "import FILE", Short: "Import a signed document; it approves nothing", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			body, err := readDocument("the signed document", args[0], corim.MaxSize)
			if err != nil {
				return err
			}
			return a.post(cmd.Context(), "/v1/endorsements", map[string][]byte{"document": body}, showEndorsement)
		}},
		&cobra.Command{Use: "list", Short: "List imported documents, newest first", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/endorsements", filter(), []string{"ID", "DOCUMENT", "SIGNER", "KEY", "NOT AFTER"}, func(v endorsementView) []string {
				return []string{v.ID, v.CorimID, v.Signer, clipped(v.SignerKey, 16), v.NotAfter}
			})
		}},
		a.showOne("Show an imported document", "/v1/endorsements/%s", showEndorsement),
		a.save("document ID", "Save an imported document as it was signed", func(ctx context.Context, service api, id string) ([]byte, error) {
			v, _, err := get[endorsementView](ctx, service, "/v1/endorsements/"+url.PathEscape(id), nil)
			return v.Document, err
		}))
	return cmd
}

// referenceValues saves the signed reference values of something.
func (a *app) referenceValues(short, path string) *cobra.Command {
	return a.save("reference-values ID", short, func(ctx context.Context, service api, id string) ([]byte, error) {
		return service.call(ctx, http.MethodGet, fmt.Sprintf(path, url.PathEscape(id)), nil, nil)
	})
}

func (a *app) save(use, short string, read func(ctx context.Context, service api, id string) ([]byte, error)) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			body, err := read(cmd.Context(), service, args[0])
			if err != nil {
				return err
			}
			if out == "" {
				_, err = a.out.Write(body)
				return err
			}
			if err := os.WriteFile(out, body, 0o600); err != nil {
				return fmt.Errorf("saving the document: %w", err)
			}
			fmt.Fprintf(a.err, "saved %s; check it with: siesta-verify corim %s --key PUBLIC-KEY\n", out, out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write; standard output if left out")
	return cmd
}

// printJudgedImage shows an image and, to people, what imported documents say of its files.
func (a *app) printJudgedImage(ctx context.Context, service api, body []byte) error {
	p := a.printer()
	if err := printImage(p, body); err != nil || p.json {
		return err
	}
	var i imageView
	if err := json.Unmarshal(body, &i); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	v, _, err := get[page[imageEndorsementView]](ctx, service, "/v1/images/"+url.PathEscape(i.ID)+"/endorsements", nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	if len(v.Items) == 0 {
		fmt.Fprintln(p.out, "No imported document endorses any of its files.")
		return nil
	}
	a.leftOut(v.LeftOut)
	return p.table(endorsementHeading, endorsementRows(v.Items))
}

var endorsementHeading = []string{"FILE", "ENDORSED AS", "BY", "KEY", "IN", "ENDORSEMENT", "NOT AFTER"}

func endorsementRows(list []imageEndorsementView) (rows [][]string) {
	for _, e := range list {
		rows = append(rows, []string{e.File, e.Subject, e.Signer, clipped(e.SignerKey, 16), e.CorimID, e.Endorsement, e.NotAfter})
	}
	return rows
}
