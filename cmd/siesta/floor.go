package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/floor"
)

type floorView struct {
	ID          string `json:"id"`
	SHA256      string `json:"sha256"`
	Issued      string `json:"issued"`
	State       string `json:"state"`
	ProposedBy  string `json:"proposed_by"`
	ActivatedBy string `json:"activated_by"`
	Advisories  []struct {
		ID       string   `json:"id"`
		Date     string   `json:"date"`
		Products []string `json:"products"`
	} `json:"advisories"`
}

type floorCheckView struct {
	Judged        int `json:"judged"`
	NotReplayable int `json:"not_replayable"`
	Unseen        int `json:"unseen"`
	Hosts         []struct {
		Site       string `json:"site"`
		Host       string `json:"host"`
		Chip       string `json:"chip"`
		Workspaces int    `json:"workspaces"`
	} `json:"hosts"`
	Failing []struct {
		Workspace  string   `json:"workspace"`
		Site       string   `json:"site"`
		Host       string   `json:"host"`
		Lease      string   `json:"lease"`
		Check      string   `json:"check"`
		Expected   string   `json:"expected"`
		Got        string   `json:"got"`
		Advisories []string `json:"advisories"`
	} `json:"failing"`
}

var showFloor = show(func(v floorView) []string {
	var ids []string
	for _, a := range v.Advisories {
		ids = append(ids, a.ID+" ("+strings.Join(a.Products, ", ")+")")
	}
	return []string{"id", v.ID, "issued", v.Issued, "state", v.State, "sha256", v.SHA256, "proposed by", v.ProposedBy, "activated by", v.ActivatedBy, "advisories", strings.Join(ids, ", ")}
})

func (a *app) floor() *cobra.Command {
	cmd := &cobra.Command{Use: "floor", Short: "Raise the floors of patch levels by a signed list of advisories"}
	file := func(use, short, path string, show func(printer, []byte) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			return a.postFloor(cmd.Context(), path, args[0], show)
		}}
	}
	cmd.AddCommand(
		file("check FILE", "List the hosts, workspaces and leases that would fail under a floor file", "/v1/floor-checks", printFloorCheck),
		file("propose FILE", "Propose a floor file, for somebody else to activate", "/v1/floors", showFloor),
		a.act("activate ID", "Put a proposed floor file into force; never by who proposed it", "/v1/floors/%s/activate", showFloor),
		a.showOne("Show a floor file", "/v1/floors/%s", showFloor),
		&cobra.Command{Use: "list", Short: "List floor files, newest first", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/floors", filter(), []string{"ID", "ISSUED", "STATE", "ADVISORIES", "SHA256"}, func(v floorView) []string {
				return []string{v.ID, v.Issued, v.State, strconv.Itoa(len(v.Advisories)), clipped(v.SHA256, 16)}
			})
		}},
		a.signFloor())
	return cmd
}

func (a *app) postFloor(ctx context.Context, path, name string, show func(printer, []byte) error) error {
	body, err := readJSON("the floor file", name)
	if err != nil {
		return err
	}
	return a.post(ctx, path, body, show)
}

func printFloorCheck(p printer, body []byte) error {
	if p.json {
		return p.raw(body)
	}
	var v floorCheckView
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	var hosts, guests [][]string
	for _, h := range v.Hosts {
		hosts = append(hosts, []string{h.Site, h.Host, clipped(h.Chip, 16), strconv.Itoa(h.Workspaces)})
	}
	for _, f := range v.Failing {
		guests = append(guests, []string{f.Workspace, f.Site, f.Host, f.Lease, f.Check, f.Expected, f.Got, strings.Join(f.Advisories, ", ")})
	}
	fmt.Fprintf(p.out, "%d of %d guests would fail; %d more have shown no evidence yet, and that of %d is not kept\n", len(v.Failing), v.Judged, v.Unseen, v.NotReplayable)
	if len(guests) == 0 {
		return nil
	}
	fmt.Fprintln(p.out)
	if err := p.table([]string{"SITE", "HOST", "CHIP", "GUESTS"}, hosts); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	return p.table([]string{"WORKSPACE", "SITE", "HOST", "LIVE LEASE", "CHECK", "EXPECTED", "GOT", "ADVISORIES"}, guests)
}

// signFloor needs no server: whoever keeps the key need not be anybody here.
func (a *app) signFloor() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use: "sign PAYLOAD", Short: "Sign a list of advisories and print the floor file", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("reading the key: %w", err)
			}
			block, _ := pem.Decode(text)
			if block == nil {
				return fmt.Errorf("reading the key: %s is not PEM", keyFile)
			}
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return fmt.Errorf("reading the key: %s holds no PKCS#8 key", keyFile)
			}
			key, ok := parsed.(ed25519.PrivateKey)
			if !ok {
				return fmt.Errorf("reading the key: %s holds no Ed25519 key", keyFile)
			}
			payload, err := readDocument("the advisories", args[0], maxDocument)
			if err != nil {
				return err
			}
			file, err := floor.Sign(payload, key)
			if err != nil {
				return err
			}
			_, err = a.out.Write(append(file, '\n'))
			return err
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "Ed25519 private key (PKCS#8 PEM)")
	require(cmd, "key")
	return cmd
}
