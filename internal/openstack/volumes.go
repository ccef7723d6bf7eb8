package openstack

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"
)

// VolumeSpec describes a blank volume. Name and Metadata together are its natural key.
type VolumeSpec struct {
	Name     string
	SizeGiB  int
	Type     string // name or id; empty: the site's default
	Metadata map[string]string
}

// Volume is a Cinder volume as read back.
type Volume struct {
	ID, Name      string
	Status        string // creating, available, reserved, attaching, in-use, detaching, deleting, error, …
	Size          int
	Type          string
	Bootable      bool
	MultiAttach   bool
	Encrypted     bool
	Metadata      map[string]string
	ImageMetadata map[string]string
	Attachments   []string // ids of the servers that hold it
	CreatedAt     time.Time
}

// Err says, as a classified error, why a volume will never become available; nil while it may.
func (v Volume) Err() error {
	if !strings.HasPrefix(v.Status, "error") {
		return nil
	}
	return &Error{Kind: Permanent, Service: volume.name, Op: "waiting for volume", Object: v.Name, Reason: "its status is " + v.Status}
}

// Serial is what a guest sees as the virtio serial of the volume.
func (v Volume) Serial() string { return v.ID[:min(len(v.ID), 20)] }

type volumeWire struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Status        string            `json:"status"`
	Size          int               `json:"size"`
	Type          string            `json:"volume_type"`
	Bootable      string            `json:"bootable"` // a string in Cinder's answers
	MultiAttach   bool              `json:"multiattach"`
	Encrypted     bool              `json:"encrypted"`
	Metadata      map[string]string `json:"metadata"`
	ImageMetadata map[string]string `json:"volume_image_metadata"`
	CreatedAt     string            `json:"created_at"` // without a zone: UTC
	Attachments   []struct {
		ServerID string `json:"server_id"`
	} `json:"attachments"`
}

func (w volumeWire) check(op, asked string) (Volume, error) {
	if !uuidForm.MatchString(w.ID) || w.Size < 0 || len(w.Metadata) > 256 || len(w.ImageMetadata) > 256 || len(w.Attachments) > 64 {
		return Volume{}, unusable(volume, op, asked, "the answer is not a volume")
	}
	v := Volume{
		ID: w.ID, Name: clean(w.Name, 255), Status: clean(w.Status, 32), Size: w.Size, Type: clean(w.Type, 255),
		Bootable: strings.EqualFold(w.Bootable, "true"), MultiAttach: w.MultiAttach, Encrypted: w.Encrypted,
		Metadata: w.Metadata, ImageMetadata: w.ImageMetadata,
	}
	// A time that does not parse sorts first, as the zero value; the id then decides.
	v.CreatedAt, _ = time.Parse("2006-01-02T15:04:05.999999", w.CreatedAt)
	for _, a := range w.Attachments {
		v.Attachments = append(v.Attachments, clean(a.ServerID, 36))
	}
	return v, nil
}

// usable refuses a volume that is not what a workspace may be given: of another size or type, open to several servers at
// once, or encrypted by the host, which would make Nova fetch a key that the host then holds.
func (v Volume) usable(op string, spec VolumeSpec) error {
	reason := ""
	switch {
	case v.Size != spec.SizeGiB:
		reason = "it is of another size"
	case v.MultiAttach:
		reason = "it can be attached to several servers at once"
	case v.Encrypted:
		reason = "the host encrypts it and would hold the key"
	case spec.Type != "" && !uuidForm.MatchString(spec.Type) && v.Type != spec.Type:
		reason = "it is of another type"
	}
	if reason == "" {
		return nil
	}
	return unusable(volume, op, spec.Name, reason)
}

// EnsureVolume finds the volume or creates it, and refuses one that is of another size, multi-attachable or encrypted by
// the host. It does not wait: read Status with Volume.
//
// Cinder has no unique name, so a process that dies after the POST, or two that POST at once, are put right by looking
// again: all keep the attached one, else the oldest, and delete the others.
func (c *Client) EnsureVolume(ctx context.Context, spec VolumeSpec) (Volume, error) {
	const op = "creating volume"
	if err := c.nameable(volume.name, op, spec.Name); err != nil {
		return Volume{}, err
	}
	if spec.SizeGiB < 1 || len(spec.Metadata) > 32 {
		return Volume{}, unusable(volume, op, spec.Name, "a volume needs a size, and at most 32 metadata")
	}
	found, err := c.volumesByName(ctx, op, spec.Name)
	if err != nil {
		return Volume{}, err
	}
	if len(found) == 0 {
		v := map[string]any{"name": spec.Name, "size": spec.SizeGiB, "metadata": spec.Metadata}
		if spec.Type != "" {
			v["volume_type"] = spec.Type
		}
		posted := c.send(ctx, request{
			service: volume, op: op, object: spec.Name, method: "POST",
			path: []string{"volumes"}, body: map[string]any{"volume": v}, ok: []int{202},
		})
		if kind := KindOf(posted); kind != "" && kind != Ambiguous {
			return Volume{}, posted
		}
		if found, err = c.volumesByName(ctx, op, spec.Name); err != nil {
			return Volume{}, err
		}
		if len(found) == 0 {
			if posted == nil {
				posted = &Error{Kind: Ambiguous, Service: volume.name, Op: op, Object: spec.Name, Reason: "it is not to be found after its creation"}
			}
			return Volume{}, posted
		}
	}
	keep := found[0]
	for k, want := range spec.Metadata {
		if keep.Metadata[k] != want {
			return Volume{}, unusable(volume, op, spec.Name, "a volume of that name carries other metadata")
		}
	}
	if err := keep.usable(op, spec); err != nil {
		return Volume{}, err
	}
	for _, loser := range found[1:] {
		if err := c.deleteVolume(ctx, "deleting duplicate volume", loser); err != nil {
			// A volume that is still being made cannot be deleted yet; the next call tries again.
			if KindOf(err) == Conflict {
				err = &Error{Kind: Retryable, Service: volume.name, Op: op, Object: spec.Name, Reason: "a duplicate cannot be deleted yet"}
			}
			return Volume{}, err
		}
	}
	return keep, nil
}

// volumesByName lists the volumes of exactly that name, without those that are going away, the one to keep first.
func (c *Client) volumesByName(ctx context.Context, op, name string) ([]Volume, error) {
	var doc struct{ Volumes []volumeWire }
	if err := c.get(ctx, volume, op, name, url.Values{"name": {name}, "limit": {"100"}}, &doc, "volumes", "detail"); err != nil {
		return nil, err
	}
	var found []Volume
	for _, w := range doc.Volumes {
		if w.Name != name || w.Status == "deleting" {
			continue
		}
		v, err := w.check(op, name)
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	slices.SortFunc(found, func(a, b Volume) int {
		return cmp.Or(
			cmp.Compare(len(b.Attachments), len(a.Attachments)),
			a.CreatedAt.Compare(b.CreatedAt),
			cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// Volume reads one volume.
func (c *Client) Volume(ctx context.Context, id string) (Volume, error) {
	const op = "reading volume"
	if err := identifier(volume, op, id); err != nil {
		return Volume{}, err
	}
	var doc struct{ Volume volumeWire }
	if err := c.get(ctx, volume, op, id, nil, &doc, "volumes", id); err != nil {
		return Volume{}, err
	}
	if doc.Volume.ID != id {
		return Volume{}, unusable(volume, op, id, "another volume came back")
	}
	return doc.Volume.check(op, id)
}

// VolumeByName finds a volume by exact name; NotFound where there is none, Conflict where there are several.
func (c *Client) VolumeByName(ctx context.Context, name string) (Volume, error) {
	const op = "finding volume"
	found, err := c.volumesByName(ctx, op, name)
	if err != nil {
		return Volume{}, err
	}
	switch len(found) {
	case 0:
		return Volume{}, &Error{Kind: NotFound, Service: volume.name, Op: op, Object: clean(name, 63)}
	case 1:
		return found[0], nil
	}
	return Volume{}, &Error{Kind: Conflict, Service: volume.name, Op: op, Object: clean(name, 63), Reason: "several bear the name"}
}

// DeleteVolume deletes a volume of this installation; absence is success. It returns once the deletion is accepted.
func (c *Client) DeleteVolume(ctx context.Context, id string) error {
	const op = "deleting volume"
	v, err := c.Volume(ctx, id)
	if ours, err := c.mayDelete(volume, op, id, v.Name, err); !ours {
		return err
	}
	return c.deleteVolume(ctx, op, v)
}

func (c *Client) deleteVolume(ctx context.Context, op string, v Volume) error {
	switch {
	case v.Status == "deleting":
		return nil
	case len(v.Attachments) > 0:
		return &Error{Kind: Conflict, Service: volume.name, Op: op, Object: v.ID, Reason: "a server still holds it"}
	}
	return c.remove(ctx, volume, op, v.ID, "volumes", v.ID)
}
