// nats-peer: the object-store client of the NATS project itself, for tests that look at a bucket from its side, and the makings of a server with
// logins by JWT.
//
//	nats-peer [-creds FILE] URL BUCKET list              a line for each object: name, bytes, digest as the metadata states it
//	nats-peer [-creds FILE] URL BUCKET get NAME          the content to standard output; the client checks the digest
//	nats-peer [-creds FILE] URL BUCKET put NAME          from standard input; makes the bucket
//	nats-peer [-creds FILE] URL BUCKET delete NAME
//	nats-peer [-creds FILE] URL BUCKET status            storage, replicas, compressed
//	nats-peer [-creds FILE] URL BUCKET upload DIR PREFIX FILE...     files of a directory, one after the other, as PREFIX + FILE; makes the bucket
//	nats-peer [-creds FILE] URL BUCKET download DIR PREFIX FILE...   and back
//	nats-peer jwt DIR                                    server.conf, user.creds, other.creds (an account without JetStream), unknown.creds (of
//	                                                     an operator that the server does not trust)
//
// Exit 0; 3 where there is no such object; 1 for other errors.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

func check(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "nats-peer:", err)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		os.Exit(3)
	}
	os.Exit(1)
}

func pair(kind nkeys.PrefixByte) (nkeys.KeyPair, string) {
	kp, err := nkeys.CreatePair(kind)
	check(err)
	public, err := kp.PublicKey()
	check(err)
	return kp, public
}

// account makes an account and writes the credentials of one user of it.
func account(operator nkeys.KeyPair, name string, jetStream bool, creds string) (public, token string) {
	kp, public := pair(nkeys.PrefixByteAccount)
	claims := jwt.NewAccountClaims(public)
	claims.Name = name
	if jetStream {
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	}
	token, err := claims.Encode(operator)
	check(err)
	ukp, upublic := pair(nkeys.PrefixByteUser)
	user := jwt.NewUserClaims(upublic)
	user.Name = name + "-user"
	utoken, err := user.Encode(kp)
	check(err)
	seed, err := ukp.Seed()
	check(err)
	file, err := jwt.FormatUserConfig(utoken, seed)
	check(err)
	check(os.WriteFile(creds, file, 0o600))
	return public, token
}

func makeJWT(dir string) {
	operator, opublic := pair(nkeys.PrefixByteOperator)
	stranger, _ := pair(nkeys.PrefixByteOperator)
	system, stoken := account(operator, "system", false, filepath.Join(dir, "system.creds"))
	app, atoken := account(operator, "app", true, filepath.Join(dir, "user.creds"))
	other, otoken := account(operator, "other", false, filepath.Join(dir, "other.creds"))
	account(stranger, "app", true, filepath.Join(dir, "unknown.creds"))
	claims := jwt.NewOperatorClaims(opublic)
	claims.Name = "operator"
	claims.SystemAccount = system
	token, err := claims.Encode(operator)
	check(err)
	conf := fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n%s: %s\n%s: %s\n%s: %s\n}\n", token, system, system, stoken, app, atoken,
		other, otoken)
	check(os.WriteFile(filepath.Join(dir, "server.conf"), []byte(conf), 0o600))
}

func main() {
	args := os.Args[1:]
	if len(args) == 2 && args[0] == "jwt" {
		makeJWT(args[1])
		return
	}
	options := []nats.Option{nats.Timeout(10 * time.Second)}
	if len(args) > 2 && args[0] == "-creds" {
		options = append(options, nats.UserCredentials(args[1]))
		args = args[2:]
	}
	if len(args) < 3 {
		check(errors.New("usage: nats-peer [-creds FILE] URL BUCKET list|get|put|delete|status [NAME], upload|download DIR PREFIX FILE..., or nats-peer jwt DIR"))
	}
	what, name := args[2], ""
	if len(args) > 3 {
		name = args[3]
	}
	many := what == "upload" || what == "download"
	if many && len(args) < 5 {
		check(fmt.Errorf("%s wants a directory and a prefix", what))
	}
	limit := time.Minute
	if many {
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	nc, err := nats.Connect(args[0], options...)
	check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	check(err)
	var store jetstream.ObjectStore
	if what == "put" || what == "upload" {
		store, err = js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: args[1]})
		if err != nil {
			store, err = js.ObjectStore(ctx, args[1])
		}
	} else {
		store, err = js.ObjectStore(ctx, args[1])
	}
	check(err)
	switch what {
	case "list":
		objects, err := store.List(ctx)
		if errors.Is(err, jetstream.ErrNoObjectsFound) {
			return
		}
		check(err)
		for _, o := range objects {
			fmt.Printf("%s %d %s\n", o.Name, o.Size, o.Digest)
		}
	case "get":
		o, err := store.Get(ctx, name)
		check(err)
		_, err = io.Copy(os.Stdout, o)
		check(err)
		check(o.Error())
	case "put":
		_, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, os.Stdin)
		check(err)
	case "upload":
		for _, file := range args[5:] {
			f, err := os.Open(filepath.Join(name, file))
			check(err)
			_, err = store.Put(ctx, jetstream.ObjectMeta{Name: args[4] + file}, f)
			check(err)
			f.Close()
		}
	case "download":
		for _, file := range args[5:] {
			check(store.GetFile(ctx, args[4]+file, filepath.Join(name, file)))
		}
	case "delete":
		check(store.Delete(ctx, name))
	case "status":
		s, err := store.Status(ctx)
		check(err)
		fmt.Printf("storage=%s replicas=%d compressed=%t\n", s.Storage(), s.Replicas(), s.IsCompressed())
	default:
		check(fmt.Errorf("no command %q", what))
	}
}
