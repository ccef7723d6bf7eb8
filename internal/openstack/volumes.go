package openstack

import (
	"context"
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
func (v Volume) Err() error { return nil }

// Serial is what a guest sees as the virtio serial of the volume.
func (v Volume) Serial() string { return "" }

// EnsureVolume finds the volume or creates it, and refuses one that is of another size, multi-attachable or encrypted by
// the host. It does not wait: read Status with Volume.
func (c *Client) EnsureVolume(ctx context.Context, spec VolumeSpec) (Volume, error) {
	return Volume{}, errUnwritten
}

// Volume reads one volume.
func (c *Client) Volume(ctx context.Context, id string) (Volume, error) {
	return Volume{}, errUnwritten
}

// VolumeByName finds a volume by exact name; NotFound where there is none, Conflict where there are several.
func (c *Client) VolumeByName(ctx context.Context, name string) (Volume, error) {
	return Volume{}, errUnwritten
}

// SetBootMetadata makes the volume bootable with exactly these image properties, and reads both back.
func (c *Client) SetBootMetadata(ctx context.Context, volumeID string, properties map[string]string) error {
	return errUnwritten
}

// DeleteVolume deletes a volume of this installation; absence is success. It returns once the deletion is accepted.
func (c *Client) DeleteVolume(ctx context.Context, id string) error { return errUnwritten }
