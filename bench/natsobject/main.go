// natsobject put|get SERVER BUCKET PREFIX DIR FILE...: moves files between a directory and an object-store bucket by the NATS project's own Go client, at
// its defaults, one after the other. put makes the bucket.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func run() error {
	if len(os.Args) < 6 {
		return fmt.Errorf("usage: natsobject put|get SERVER BUCKET PREFIX DIR FILE...")
	}
	verb, bucket, prefix, dir := os.Args[1], os.Args[3], os.Args[4], os.Args[5]
	ctx := context.Background()
	nc, err := nats.Connect(os.Args[2])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var store jetstream.ObjectStore
	if verb == "put" {
		store, err = js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: bucket, Storage: jetstream.FileStorage})
	} else {
		store, err = js.ObjectStore(ctx, bucket)
	}
	if err != nil {
		return err
	}
	for _, name := range os.Args[6:] {
		path := filepath.Join(dir, name)
		if verb == "get" {
			if err := store.GetFile(ctx, prefix+name, path); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = store.Put(ctx, jetstream.ObjectMeta{Name: prefix + name}, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "natsobject:", err)
		os.Exit(1)
	}
}
