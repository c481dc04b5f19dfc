// Code generated from an OpenRPC document. DO NOT EDIT.

// Package minecraft has the methods and types of Minecraft Server JSON-RPC, version 2.0.0.
package minecraft

import (
	"context"

	"example.com/rpcx"
)

// Difficulty is the schema "difficulty".
type Difficulty string

// The values of Difficulty.
const (
	DifficultyPeaceful Difficulty = "peaceful"
	DifficultyEasy     Difficulty = "easy"
	DifficultyNormal   Difficulty = "normal"
	DifficultyHard     Difficulty = "hard"
)

// Message is the schema "message".
type Message struct {
	Translatable       *string  `json:"translatable,omitzero"`
	TranslatableParams []string `json:"translatableParams,omitzero"`
	Literal            *string  `json:"literal,omitzero"`
}

// Player is the schema "player".
type Player struct {
	Name *string `json:"name,omitzero"`
	ID   *string `json:"id,omitzero"`
}

// ServerState is the schema "server_state".
type ServerState struct {
	Players []Player `json:"players,omitzero"`
	Started *bool    `json:"started,omitzero"`
	Version *Version `json:"version,omitzero"`
}

// SystemMessage is the schema "system_message".
type SystemMessage struct {
	Message          *Message `json:"message,omitzero"`
	Overlay          *bool    `json:"overlay,omitzero"`
	ReceivingPlayers []Player `json:"receivingPlayers,omitzero"`
}

// TypedGameRule is the schema "typed_game_rule".
type TypedGameRule struct {
	Key   *string `json:"key,omitzero"`
	Value any     `json:"value,omitzero"`
	Type  *string `json:"type,omitzero"`
}

// UntypedGameRule is the schema "untyped_game_rule".
type UntypedGameRule struct {
	Key   *string `json:"key,omitzero"`
	Value any     `json:"value,omitzero"`
}

// UserBan is the schema "user_ban".
type UserBan struct {
	Reason  *string `json:"reason,omitzero"`
	Expires *string `json:"expires,omitzero"`
	Source  *string `json:"source,omitzero"`
	Player  *Player `json:"player,omitzero"`
}

// Version is the schema "version".
type Version struct {
	Protocol *int64  `json:"protocol,omitzero"`
	Name     *string `json:"name,omitzero"`
}

// Service answers the methods of the document.
type Service interface {
	// MinecraftAllowlist is the method "minecraft:allowlist".
	//
	// Players that may join
	MinecraftAllowlist(ctx context.Context) ([]Player, error)

	// MinecraftAllowlistAdd is the method "minecraft:allowlist/add".
	//
	// Let players join
	MinecraftAllowlistAdd(ctx context.Context, add []Player) ([]Player, error)

	// MinecraftBansAdd is the method "minecraft:bans/add".
	//
	// Ban players
	MinecraftBansAdd(ctx context.Context, add []UserBan) ([]UserBan, error)

	// MinecraftServerStatus is the method "minecraft:server/status".
	//
	// State of the server
	MinecraftServerStatus(ctx context.Context) (ServerState, error)

	// MinecraftServerSystemMessage is the method "minecraft:server/system_message".
	//
	// Show a message to players
	MinecraftServerSystemMessage(ctx context.Context, message SystemMessage) (bool, error)

	// MinecraftServerSave is the method "minecraft:server/save".
	//
	// Save the world
	MinecraftServerSave(ctx context.Context, flush bool) (bool, error)

	// MinecraftServersettingsDifficulty is the method "minecraft:serversettings/difficulty".
	//
	// The difficulty
	MinecraftServersettingsDifficulty(ctx context.Context) (Difficulty, error)

	// MinecraftServersettingsDifficultySet is the method "minecraft:serversettings/difficulty/set".
	//
	// Set the difficulty
	MinecraftServersettingsDifficultySet(ctx context.Context, difficulty Difficulty) (Difficulty, error)

	// MinecraftGamerulesUpdate is the method "minecraft:gamerules/update".
	//
	// Change a game rule
	MinecraftGamerulesUpdate(ctx context.Context, gamerule UntypedGameRule) (TypedGameRule, error)

	// MinecraftNotificationServerStarted is the method "minecraft:notification/server/started".
	//
	// The server has started
	MinecraftNotificationServerStarted(ctx context.Context) error

	// MinecraftNotificationPlayersJoined is the method "minecraft:notification/players/joined".
	//
	// A player has joined
	MinecraftNotificationPlayersJoined(ctx context.Context, player Player) error
}

// NewHandler returns a router with the methods of service, and their documentation.
func NewHandler(service Service) *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("minecraft:allowlist", rpcx.Documented(rpcx.Func(service.MinecraftAllowlist), rpcx.Doc{
		Description: "Players that may join",
		Public:      true,
	}))
	r.Handle("minecraft:allowlist/add", rpcx.Documented(rpcx.Func(service.MinecraftAllowlistAdd, "add"), rpcx.Doc{
		Description: "Let players join",
		Public:      true,
	}))
	r.Handle("minecraft:bans/add", rpcx.Documented(rpcx.Func(service.MinecraftBansAdd, "add"), rpcx.Doc{
		Description: "Ban players",
		Public:      true,
	}))
	r.Handle("minecraft:server/status", rpcx.Documented(rpcx.Func(service.MinecraftServerStatus), rpcx.Doc{
		Description: "State of the server",
		Public:      true,
	}))
	r.Handle("minecraft:server/system_message", rpcx.Documented(rpcx.Func(service.MinecraftServerSystemMessage, "message"), rpcx.Doc{
		Description: "Show a message to players",
		Public:      true,
	}))
	r.Handle("minecraft:server/save", rpcx.Documented(rpcx.Func(service.MinecraftServerSave, "flush"), rpcx.Doc{
		Description: "Save the world",
		Public:      true,
	}))
	r.Handle("minecraft:serversettings/difficulty", rpcx.Documented(rpcx.Func(service.MinecraftServersettingsDifficulty), rpcx.Doc{
		Description: "The difficulty",
		Public:      true,
	}))
	r.Handle("minecraft:serversettings/difficulty/set", rpcx.Documented(rpcx.Func(service.MinecraftServersettingsDifficultySet, "difficulty"), rpcx.Doc{
		Description: "Set the difficulty",
		Public:      true,
	}))
	r.Handle("minecraft:gamerules/update", rpcx.Documented(rpcx.Func(service.MinecraftGamerulesUpdate, "gamerule"), rpcx.Doc{
		Description: "Change a game rule",
		Public:      true,
	}))
	r.Handle("minecraft:notification/server/started", rpcx.Documented(rpcx.Func(service.MinecraftNotificationServerStarted), rpcx.Doc{
		Description: "The server has started",
		Public:      true,
	}))
	r.Handle("minecraft:notification/players/joined", rpcx.Documented(rpcx.Func(service.MinecraftNotificationPlayersJoined, "player"), rpcx.Doc{
		Description: "A player has joined",
		Public:      true,
	}))
	return r
}

// Unimplemented can be embedded in a Service. Its methods answer that there is no such method.
type Unimplemented struct{}

func (Unimplemented) MinecraftAllowlist(_ context.Context) (_ []Player, err error) {
	err = rpcx.MethodNotFound("minecraft:allowlist")
	return
}

func (Unimplemented) MinecraftAllowlistAdd(_ context.Context, _ []Player) (_ []Player, err error) {
	err = rpcx.MethodNotFound("minecraft:allowlist/add")
	return
}

func (Unimplemented) MinecraftBansAdd(_ context.Context, _ []UserBan) (_ []UserBan, err error) {
	err = rpcx.MethodNotFound("minecraft:bans/add")
	return
}

func (Unimplemented) MinecraftServerStatus(_ context.Context) (_ ServerState, err error) {
	err = rpcx.MethodNotFound("minecraft:server/status")
	return
}

func (Unimplemented) MinecraftServerSystemMessage(_ context.Context, _ SystemMessage) (_ bool, err error) {
	err = rpcx.MethodNotFound("minecraft:server/system_message")
	return
}

func (Unimplemented) MinecraftServerSave(_ context.Context, _ bool) (_ bool, err error) {
	err = rpcx.MethodNotFound("minecraft:server/save")
	return
}

func (Unimplemented) MinecraftServersettingsDifficulty(_ context.Context) (_ Difficulty, err error) {
	err = rpcx.MethodNotFound("minecraft:serversettings/difficulty")
	return
}

func (Unimplemented) MinecraftServersettingsDifficultySet(_ context.Context, _ Difficulty) (_ Difficulty, err error) {
	err = rpcx.MethodNotFound("minecraft:serversettings/difficulty/set")
	return
}

func (Unimplemented) MinecraftGamerulesUpdate(_ context.Context, _ UntypedGameRule) (_ TypedGameRule, err error) {
	err = rpcx.MethodNotFound("minecraft:gamerules/update")
	return
}

func (Unimplemented) MinecraftNotificationServerStarted(_ context.Context) (err error) {
	err = rpcx.MethodNotFound("minecraft:notification/server/started")
	return
}

func (Unimplemented) MinecraftNotificationPlayersJoined(_ context.Context, _ Player) (err error) {
	err = rpcx.MethodNotFound("minecraft:notification/players/joined")
	return
}

// Client calls the methods of a peer. Use NewClient to make one.
type Client struct {
	// MinecraftAllowlist is the method "minecraft:allowlist".
	//
	// Players that may join
	MinecraftAllowlist func(ctx context.Context) ([]Player, error) `rpcx:"minecraft:allowlist"`

	// MinecraftAllowlistAdd is the method "minecraft:allowlist/add".
	//
	// Let players join
	MinecraftAllowlistAdd func(ctx context.Context, add []Player) ([]Player, error) `rpcx:"minecraft:allowlist/add"`

	// MinecraftBansAdd is the method "minecraft:bans/add".
	//
	// Ban players
	MinecraftBansAdd func(ctx context.Context, add []UserBan) ([]UserBan, error) `rpcx:"minecraft:bans/add"`

	// MinecraftServerStatus is the method "minecraft:server/status".
	//
	// State of the server
	MinecraftServerStatus func(ctx context.Context) (ServerState, error) `rpcx:"minecraft:server/status"`

	// MinecraftServerSave is the method "minecraft:server/save".
	//
	// Save the world
	MinecraftServerSave func(ctx context.Context, flush bool) (bool, error) `rpcx:"minecraft:server/save"`

	// MinecraftServersettingsDifficulty is the method "minecraft:serversettings/difficulty".
	//
	// The difficulty
	MinecraftServersettingsDifficulty func(ctx context.Context) (Difficulty, error) `rpcx:"minecraft:serversettings/difficulty"`

	// MinecraftServersettingsDifficultySet is the method "minecraft:serversettings/difficulty/set".
	//
	// Set the difficulty
	MinecraftServersettingsDifficultySet func(ctx context.Context, difficulty Difficulty) (Difficulty, error) `rpcx:"minecraft:serversettings/difficulty/set"`

	caller rpcx.Caller
}

// NewClient returns a client that calls through caller.
func NewClient(caller rpcx.Caller) (*Client, error) {
	client := &Client{caller: caller}
	if err := rpcx.BindProxy(rpcx.Remote(caller), client); err != nil {
		return nil, err
	}
	return client, nil
}

// MinecraftServerSystemMessage is the method "minecraft:server/system_message".
//
// Show a message to players
func (client *Client) MinecraftServerSystemMessage(ctx context.Context, message SystemMessage) (bool, error) {
	args := rpcx.Args{message}
	return rpcx.Call[bool](ctx, client.caller, "minecraft:server/system_message", args)
}

// MinecraftGamerulesUpdate is the method "minecraft:gamerules/update".
//
// Change a game rule
func (client *Client) MinecraftGamerulesUpdate(ctx context.Context, gamerule UntypedGameRule) (TypedGameRule, error) {
	args := rpcx.Args{gamerule}
	return rpcx.Call[TypedGameRule](ctx, client.caller, "minecraft:gamerules/update", args)
}

// MinecraftNotificationServerStarted is the method "minecraft:notification/server/started".
//
// The server has started
func (client *Client) MinecraftNotificationServerStarted(ctx context.Context) error {
	args := rpcx.Args{}
	return client.caller.Notify(ctx, "minecraft:notification/server/started", args)
}

// MinecraftNotificationPlayersJoined is the method "minecraft:notification/players/joined".
//
// A player has joined
func (client *Client) MinecraftNotificationPlayersJoined(ctx context.Context, player Player) error {
	args := rpcx.Args{player}
	return client.caller.Notify(ctx, "minecraft:notification/players/joined", args)
}
