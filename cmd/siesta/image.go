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
)

type fileView struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

type imageView struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Kernel   *fileView `json:"kernel"`
	Initrd   *fileView `json:"initrd"`
	Firmware *fileView `json:"firmware"`
}

func (a *app) image() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Upload, register, approve and withdraw guest images"}
	var kernel, initrd, firmware string
	upload := &cobra.Command{
		Use: "upload NAME", Short: "Make a draft of a kernel, an initrd and a firmware file, and register it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.uploadImage(cmd.Context(), args[0], [][2]string{{"kernel", kernel}, {"initrd", initrd}, {"firmware", firmware}})
		},
	}
	upload.Flags().StringVar(&kernel, "kernel", "", "kernel file")
	upload.Flags().StringVar(&initrd, "initrd", "", "initrd file")
	upload.Flags().StringVar(&firmware, "firmware", "", "firmware file that the site's hosts load")
	require(upload, "kernel", "initrd", "firmware")
	cmd.AddCommand(upload,
		&cobra.Command{
			Use: "approve ID", Short: "Approve an image that somebody else registered; `show` says who endorses its files", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				service, err := a.connect(cmd.Context())
				if err != nil {
					return err
				}
				body, err := service.call(cmd.Context(), http.MethodPost, "/v1/images/"+url.PathEscape(args[0])+"/approve", nil, nil)
				if err != nil {
					return err
				}
				return a.printJudgedImage(cmd.Context(), service, body)
			},
		},
		a.act("withdraw ID", "Withdraw an image: no key is released to it any more", "/v1/images/%s/withdraw", printImage),
		&cobra.Command{
			Use: "list", Short: "List images", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return list(cmd.Context(), a, "/v1/images", url.Values{}, []string{"ID", "NAME", "STATE"},
					func(i imageView) []string { return []string{i.ID, i.Name, i.State} })
			},
		},
		&cobra.Command{
			Use: "show ID", Short: "Show an image and the digests of its files", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				service, err := a.connect(cmd.Context())
				if err != nil {
					return err
				}
				_, body, err := get[imageView](cmd.Context(), service, "/v1/images/"+url.PathEscape(args[0]), nil)
				if err != nil {
					return err
				}
				return a.printJudgedImage(cmd.Context(), service, body)
			},
		},
		&cobra.Command{
			Use: "endorsements ID", Short: "List what imported documents say of an image's files", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return list(cmd.Context(), a, "/v1/images/"+url.PathEscape(args[0])+"/endorsements", filter(), endorsementHeading,
					func(e imageEndorsementView) []string { return endorsementRows([]imageEndorsementView{e})[0] })
			},
		},
		a.referenceValues("Save the signed digests of an approved image's files", "/v1/images/%s/reference-values"))
	return cmd
}

// uploadImage goes on where it is interrupted only from the start: a draft that was never registered does nothing.
func (a *app) uploadImage(ctx context.Context, name string, files [][2]string) error {
	service, err := a.connect(ctx)
	if err != nil {
		return err
	}
	body, err := service.call(ctx, http.MethodPost, "/v1/images", nil, map[string]string{"name": name})
	if err != nil {
		return err
	}
	var image imageView
	if err := json.Unmarshal(body, &image); err != nil {
		return fmt.Errorf("creating image: unexpected answer: %w", err)
	}
	for _, file := range files {
		if err := uploadFile(ctx, service, "/v1/images/"+url.PathEscape(image.ID)+"/files/"+file[0], file[1]); err != nil {
			return err
		}
		fmt.Fprintf(a.err, "uploaded %s %s\n", file[0], file[1])
	}
	if body, err = service.call(ctx, http.MethodPost, "/v1/images/"+url.PathEscape(image.ID)+"/register", nil, nil); err != nil {
		return err
	}
	return printImage(a.printer(), body)
}

func uploadFile(ctx context.Context, service api, path, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("uploading: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("uploading %s: %w", name, err)
	}
	if _, err := service.upload(ctx, path, f, info.Size()); err != nil {
		return fmt.Errorf("uploading %s: %w", name, err)
	}
	return nil
}

func printImage(p printer, body []byte) error {
	if p.json {
		return p.raw(body)
	}
	var i imageView
	if err := json.Unmarshal(body, &i); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	file := func(f *fileView) string {
		if f == nil {
			return "not uploaded"
		}
		return f.SHA256 + "  " + strconv.FormatInt(f.Size, 10) + " bytes"
	}
	return p.fields("id", i.ID, "name", i.Name, "state", i.State, "kernel", file(i.Kernel), "initrd", file(i.Initrd), "firmware", file(i.Firmware))
}

// act is a command that posts to one thing and prints what it has become.
func (a *app) act(use, short, path string, show func(printer, []byte) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.post(cmd.Context(), fmt.Sprintf(path, url.PathEscape(args[0])), nil, show)
		},
	}
}

func (a *app) post(ctx context.Context, path string, body any, show func(printer, []byte) error) error {
	service, err := a.connect(ctx)
	if err != nil {
		return err
	}
	answer, err := service.call(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return err
	}
	return show(a.printer(), answer)
}
