------------------------------- MODULE Outbox -------------------------------
(***************************************************************************)
(* The protocol of relay, consumer and reconciler, for two messages with   *)
(* one key. TLC tries every order of the steps below, with every fault at  *)
(* every place, and checks the properties at the end of this file.         *)
(*                                                                         *)
(* How to read it. A state is one value for each variable. Each action,    *)
(* such as Send(r), says in which states a step may happen, and with x'    *)
(* the value of x after it. /\ is "and", \/ is "or", \E is "there is",     *)
(* \A is "for all", << >> is a list, f[m] is the value of f for m, and     *)
(* [f EXCEPT ![m] = v] is f with v for m. One step is one transaction or   *)
(* one call of the broker, and a process may be killed between any two.    *)
(*                                                                         *)
(* Each rule of the protocol has a name. One that is not in Rules is left  *)
(* out, so that one can see what it is good for.                           *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Relays, Consumers,  \* names of processes
    MaxFaults,          \* how many faults happen at most
    Rules               \* the rules in force, of AllRules

AllRules == {
    "RowLock",              \* relay and consumer lock rows, and wait for or skip locked ones
    "GuardedWrites",        \* a write changes a row only in the state that its writer has read
    "StatusCheck",          \* the consumer handles only messages that are published
    "Fence",                \* and only if attempt and offset of the record are those of the row
    "RelayHolds",           \* the relay sends no message while an earlier one is pending elsewhere
    "AcknowledgedPrefix",   \* what is acknowledged after a record that failed does not count
    "ConsumerHolds",        \* the consumer handles no message before an earlier one is finished
    "OneTransaction",       \* effects of the handler and status of the message commit together
    "OffsetAfterCommit",    \* an offset is committed when all before it is finished
    "Reconciler"            \* what is published and will not be read is sent again
}
ASSUME Rules \subseteq AllRules

InForce(rule) == rule \in Rules

Ids == <<1, 2>>             \* message 1 was written first; both are committed
Messages == {1, 2}
Nobody == "nobody"
Finished == {"consumed", "dead"}

VARIABLES
    status,     \* of each row: pending, published, consumed or dead
    attempt,    \* of each row: how often it was published
    place,      \* of each row: the offset of its last publication, 0 before the first
    lock,       \* of each row: who has locked it
    log,        \* the partition: a list of records, each with a message and an attempt
    lost,       \* offsets whose records the broker has lost
    committed,  \* the group's offset: the next record to read after a restart
    owner,      \* the consumer to which the group has assigned the partition
    relay,      \* what each relay has in hand
    consumer,   \* what each consumer has in hand
    effects,    \* the messages whose handlers had an effect, in order
    faults      \* how many faults have happened

rows == <<status, attempt, place>>
broker == <<log, lost>>
vars == <<rows, lock, broker, committed, owner, relay, consumer, effects, faults>>

IdleRelay == [isOpen |-> FALSE, todo |-> <<>>, acknowledged |-> <<>>, isBroken |-> FALSE]
Idle == [phase |-> "idle", now |-> 0, attempt |-> 0]

Init ==
    /\ status = [m \in Messages |-> "pending"]
    /\ attempt = [m \in Messages |-> 0]
    /\ place = [m \in Messages |-> 0]
    /\ lock = [m \in Messages |-> Nobody]
    /\ log = <<>>
    /\ lost = {}
    /\ committed = 1
    /\ owner \in Consumers
    /\ relay = [r \in Relays |-> IdleRelay]
    /\ consumer = [c \in Consumers |-> [work |-> Idle, position |-> 1, hand |-> {}]]
    /\ effects = <<>>
    /\ faults = 0

Min(S) == CHOOSE x \in S : \A y \in S : x <= y

Fault == faults < MaxFaults /\ faults' = faults + 1
NoFault == UNCHANGED faults

Free(m) == lock[m] = Nobody
Lock(ms, who) == lock' = IF InForce("RowLock") THEN [m \in Messages |-> IF m \in ms THEN who ELSE lock[m]] ELSE lock
Unlock(who) == lock' = [m \in Messages |-> IF lock[m] = who THEN Nobody ELSE lock[m]]

(***************************************************************************)
(* A write of a status. It names the status and the attempt that it        *)
(* leaves; if the row has others by now, it changes nothing.               *)
(***************************************************************************)
MayWrite(m, from, itsAttempt) == InForce("GuardedWrites") => status[m] = from /\ attempt[m] = itsAttempt

(***************************************************************************)
(* The relay: claim (SELECT ... FOR UPDATE SKIP LOCKED), send, and commit. *)
(***************************************************************************)

\* Any due messages. Which ones are due is open, since delays and retries may make any of them wait.
Claim(r) ==
    /\ ~relay[r].isOpen
    /\ \E due \in SUBSET {m \in Messages : status[m] = "pending" /\ Free(m)} :
        /\ due # {}
        /\ InForce("RelayHolds") => \A m \in due, e \in Messages : e < m /\ status[e] = "pending" => e \in due
        /\ Lock(due, r)
        /\ relay' = [relay EXCEPT ![r].isOpen = TRUE, ![r].todo =
               LET record(m) == [message |-> m, attempt |-> attempt[m] + 1]
                   batch == SelectSeq(Ids, LAMBDA m : m \in due)
               IN [i \in 1..Len(batch) |-> record(batch[i])]]
    /\ NoFault
    /\ UNCHANGED <<rows, broker, committed, owner, consumer, effects>>

Send(r) ==
    /\ relay[r].todo # <<>>
    /\ LET record == Head(relay[r].todo)
           answer == [message |-> record.message, attempt |-> record.attempt, offset |-> Len(log) + 1]
           counts == ~(relay[r].isBroken /\ InForce("AcknowledgedPrefix"))
       IN /\ log' = Append(log, record)
          /\ relay' = [relay EXCEPT
                 ![r].todo = Tail(@),
                 ![r].acknowledged = IF counts THEN Append(@, answer) ELSE @]
    /\ NoFault
    /\ UNCHANGED <<rows, lock, lost, committed, owner, consumer, effects>>

\* Mark what counts as published, and commit.
Publish(r) ==
    /\ relay[r].isOpen
    /\ relay[r].todo = <<>>
    /\ LET answers == relay[r].acknowledged
           marked(m) == {i \in 1..Len(answers) :
               answers[i].message = m /\ MayWrite(m, "pending", answers[i].attempt - 1)}
           answer(m) == answers[Min(marked(m))]
       IN /\ status' = [m \in Messages |-> IF marked(m) # {} THEN "published" ELSE status[m]]
          /\ attempt' = [m \in Messages |-> IF marked(m) # {} THEN answer(m).attempt ELSE attempt[m]]
          /\ place' = [m \in Messages |-> IF marked(m) # {} THEN answer(m).offset ELSE place[m]]
    /\ Unlock(r)
    /\ relay' = [relay EXCEPT ![r] = IdleRelay]
    /\ NoFault
    /\ UNCHANGED <<broker, committed, owner, consumer, effects>>

(***************************************************************************)
(* The consumer. It reads ahead; what it has read and not finished is in   *)
(* its hand. After a rebalance, work that has begun goes on, as the        *)
(* handler does not know.                                                  *)
(***************************************************************************)

Read(c) ==
    /\ owner = c
    /\ consumer[c].position <= Len(log)
    /\ LET offset == consumer[c].position
       IN consumer' = [consumer EXCEPT
              ![c].position = @ + 1,
              ![c].hand = IF offset \in lost THEN @ ELSE @ \cup {offset}]
    /\ NoFault
    /\ UNCHANGED <<rows, lock, broker, committed, owner, relay, effects>>

\* With row locks, the consumer waits for a relay or another consumer that has the row.
IsIdle(c) == consumer[c].work.phase = "idle"

IsCurrent(offset) ==
    LET record == log[offset]
        m == record.message
    IN /\ InForce("StatusCheck") => status[m] = "published"
       /\ InForce("Fence") => attempt[m] = record.attempt /\ place[m] = offset

IsHeld(m) == InForce("ConsumerHolds") /\ \E e \in Messages : e < m /\ status[e] \notin Finished

Skip(c) ==
    /\ IsIdle(c)
    /\ \E offset \in consumer[c].hand :
        /\ Free(log[offset].message)
        /\ ~IsCurrent(offset)
        /\ consumer' = [consumer EXCEPT ![c].hand = @ \ {offset}]
    /\ NoFault
    /\ UNCHANGED <<rows, lock, broker, committed, owner, relay, effects>>

\* Lock the row, and run the handler. A message that is held waits in hand.
Start(c) ==
    /\ IsIdle(c)
    /\ \E offset \in consumer[c].hand :
        LET m == log[offset].message
        IN /\ Free(m)
           /\ IsCurrent(offset)
           /\ ~IsHeld(m)
           /\ Lock({m}, c)
           /\ consumer' = [consumer EXCEPT
                  ![c].work = [phase |-> "running", now |-> offset, attempt |-> attempt[m]]]
    /\ NoFault
    /\ UNCHANGED <<rows, broker, committed, owner, relay, effects>>

Now(c) == log[consumer[c].work.now].message

Finish(c) == consumer' = [consumer EXCEPT ![c].work = Idle, ![c].hand = @ \ {consumer[c].work.now}]

Consumed(c, from) ==
    /\ status' = IF MayWrite(Now(c), from, consumer[c].work.attempt)
                 THEN [status EXCEPT ![Now(c)] = "consumed"] ELSE status
    /\ UNCHANGED <<attempt, place>>

\* The handler returns. If its message has another state by now, the transaction is rolled back.
Succeed(c) ==
    /\ consumer[c].work.phase = "running"
    /\ IF InForce("OneTransaction")
       THEN /\ Consumed(c, "published")
            /\ effects' = IF MayWrite(Now(c), "published", consumer[c].work.attempt)
                          THEN Append(effects, Now(c)) ELSE effects
            /\ Unlock(c)
            /\ Finish(c)
       ELSE /\ effects' = Append(effects, Now(c))
            /\ consumer' = [consumer EXCEPT ![c].work.phase = "effective"]
            /\ UNCHANGED <<rows, lock>>
    /\ NoFault
    /\ UNCHANGED <<broker, committed, owner, relay>>

\* Only without "OneTransaction".
MarkConsumed(c) ==
    /\ consumer[c].work.phase = "effective"
    /\ Consumed(c, "published")
    /\ Unlock(c)
    /\ Finish(c)
    /\ NoFault
    /\ UNCHANGED <<broker, committed, owner, relay, effects>>

\* After a failure: the message is retried or, after its last retry or a Reject, dead.
StoreFailure(c) ==
    /\ consumer[c].work.phase = "failed"
    /\ Free(Now(c))
    /\ \E after \in {"pending", "dead"} :
        status' = IF MayWrite(Now(c), "published", consumer[c].work.attempt)
                  THEN [status EXCEPT ![Now(c)] = after] ELSE status
    /\ Finish(c)
    /\ NoFault
    /\ UNCHANGED <<attempt, place, lock, broker, committed, owner, relay, effects>>

FirstUnfinished(c) == Min(consumer[c].hand \cup {consumer[c].position})

CommitOffset(c) ==
    /\ owner = c
    /\ committed' = IF InForce("OffsetAfterCommit") THEN FirstUnfinished(c) ELSE consumer[c].position
    /\ committed' # committed
    /\ NoFault
    /\ UNCHANGED <<rows, lock, broker, owner, relay, consumer, effects>>

Reconcile(c) ==
    /\ InForce("Reconciler")
    /\ owner = c
    /\ \E m \in Messages :
        /\ status[m] = "published"
        /\ place[m] < FirstUnfinished(c)
        /\ Free(m)
        /\ status' = [status EXCEPT ![m] = "pending"]
    /\ NoFault
    /\ UNCHANGED <<attempt, place, lock, broker, committed, owner, relay, consumer, effects>>

(***************************************************************************)
(* Faults.                                                                 *)
(***************************************************************************)

\* The relay is killed, or loses the broker: the database rolls back. What it has sent stays in the log.
AbortRelay(r) ==
    /\ Fault
    /\ relay[r].isOpen
    /\ Unlock(r)
    /\ relay' = [relay EXCEPT ![r] = IdleRelay]
    /\ UNCHANGED <<rows, broker, committed, owner, consumer, effects>>

\* The broker fails one record of a batch.
FailRecord(r) ==
    /\ Fault
    /\ relay[r].todo # <<>>
    /\ relay' = [relay EXCEPT ![r].todo = Tail(@), ![r].isBroken = TRUE]
    /\ UNCHANGED <<rows, lock, broker, committed, owner, consumer, effects>>

LoseRecord ==
    /\ Fault
    /\ \E offset \in 1..Len(log) : offset \notin lost /\ lost' = lost \cup {offset}
    /\ UNCHANGED <<rows, lock, log, committed, owner, relay, consumer, effects>>

\* A producer's retry, or somebody who writes a record a second time.
DuplicateRecord ==
    /\ Fault
    /\ \E offset \in 1..Len(log) : log' = Append(log, log[offset])
    /\ UNCHANGED <<rows, lock, lost, committed, owner, relay, consumer, effects>>

\* The handler raises: its transaction is rolled back. StoreFailure is another one.
Raise(c) ==
    /\ Fault
    /\ consumer[c].work.phase = "running"
    /\ Unlock(c)
    /\ consumer' = [consumer EXCEPT ![c].work.phase = "failed"]
    /\ UNCHANGED <<rows, broker, committed, owner, relay, effects>>

\* A message was held for too long: it leaves the hand, and the relay sends it again.
Requeue(c) ==
    /\ Fault
    /\ IsIdle(c)
    /\ \E offset \in consumer[c].hand :
        LET m == log[offset].message
        IN /\ Free(m)
           /\ IsCurrent(offset)
           /\ IsHeld(m)
           /\ status' = [status EXCEPT ![m] = "pending"]
           /\ consumer' = [consumer EXCEPT ![c].hand = @ \ {offset}]
    /\ UNCHANGED <<attempt, place, lock, broker, committed, owner, relay, effects>>

\* Another consumer gets the partition, and begins at the committed offset.
Assigned(state, c) == [state EXCEPT ![c].position = committed, ![c].hand = {}]

Rebalance(c) ==
    /\ Fault
    /\ owner = c
    /\ \E next \in Consumers \ {c} :
        /\ owner' = next
        /\ consumer' = Assigned([consumer EXCEPT ![c].hand = {}], next)
    /\ UNCHANGED <<rows, lock, broker, committed, relay, effects>>

KillConsumer(c) ==
    /\ Fault
    /\ Unlock(c)
    /\ LET killed == [consumer EXCEPT ![c] = [work |-> Idle, position |-> committed, hand |-> {}]]
       IN IF owner = c
          THEN \E next \in Consumers : owner' = next /\ consumer' = Assigned(killed, next)
          ELSE owner' = owner /\ consumer' = killed
    /\ UNCHANGED <<rows, broker, committed, relay, effects>>

(***************************************************************************)
(* All steps. Those without faults happen sooner or later if they can.     *)
(***************************************************************************)

RelaySteps(r) == Claim(r) \/ Send(r) \/ Publish(r)
ConsumerSteps(c) == Skip(c) \/ Start(c) \/ Succeed(c) \/ MarkConsumed(c) \/ StoreFailure(c)

Next ==
    \/ \E r \in Relays : RelaySteps(r) \/ AbortRelay(r) \/ FailRecord(r)
    \/ \E c \in Consumers :
        \/ Read(c) \/ ConsumerSteps(c) \/ CommitOffset(c) \/ Reconcile(c)
        \/ Raise(c) \/ Requeue(c) \/ Rebalance(c) \/ KillConsumer(c)
    \/ LoseRecord \/ DuplicateRecord

Spec == Init /\ [][Next]_vars

FairSpec ==
    /\ Spec
    /\ \A r \in Relays : WF_vars(RelaySteps(r))
    /\ \A c \in Consumers :
        WF_vars(Read(c)) /\ WF_vars(ConsumerSteps(c)) /\ WF_vars(CommitOffset(c)) /\ WF_vars(Reconcile(c))

(***************************************************************************)
(* Properties: safety, in each state.                                      *)
(***************************************************************************)

Once == \A i, j \in 1..Len(effects) : i # j => effects[i] # effects[j]

InOrder == \A i, j \in 1..Len(effects) : i < j => effects[i] <= effects[j]

\* A message is consumed if and only if its handler had its effect.
EffectIffConsumed == \A m \in Messages : status[m] = "consumed" <=> \E i \in 1..Len(effects) : effects[i] = m

\* No offset is committed before the message is handled, unless the broker has lost its record.
NothingSkipped == \A m \in Messages : status[m] = "published" /\ place[m] \notin lost => place[m] >= committed

\* Whoever reads the topic finds each message behind one of each earlier message, as other groups do.
LogInOrder ==
    \A e, m \in Messages :
        e < m /\ status[e] \in {"published", "consumed"} /\ status[m] \in {"published", "consumed"}
        => \E i, j \in 1..Len(log) : i < j /\ log[i].message = e /\ log[j].message = m

\* In each step: consumed and dead are final. (Operators are not part of this specification.)
FinalStays == [][\A m \in Messages : status[m] \in Finished => status'[m] = status[m]]_vars

(***************************************************************************)
(* Properties: progress, in each complete run.                             *)
(***************************************************************************)

AllFinish == \A m \in Messages : <>[](status[m] \in Finished)

(***************************************************************************)
(* For TLC: left out, some rules would let relay and consumer go round for *)
(* ever, so that the log grows without end. Processes of one kind are      *)
(* alike.                                                                  *)
(***************************************************************************)
Bounded == Len(log) <= 2 + 3 * MaxFaults
Alike == Permutations(Relays) \cup Permutations(Consumers)

=============================================================================
