# client_more.pl MODULE PORT text|binary [store|read]: Memcached::libmemcached or AnyEvent::Memcached (text only)
# against the server; dies at the first wrong answer.
use strict;
use warnings;
use Time::HiRes qw(time sleep);

my ($module, $port, $protocol, $phase) = @ARGV;
eval "require $module" or die $@;

sub check { my ($what, $ok) = @_; die "$module: $what\n" unless $ok; }
sub is { my ($got, $wanted) = @_; return defined $got && $got eq $wanted; }

# do_it(METHOD, arguments): what the client says. Both kinds of client behind one call.
my ($do_it, $multi);
if ($module eq 'AnyEvent::Memcached') {
    my $m = AnyEvent::Memcached->new(servers => ["127.0.0.1:$port"], timeout => 120);
    $do_it = sub {
        my ($verb, @args) = @_;
        my $cv = AnyEvent->condvar;
        $m->$verb(@args, cb => sub { $cv->send(@_) });
        return ($cv->recv)[0];
    };
    $multi = sub { $do_it->('get', [@_]) };
} else {
    my $m = Memcached::libmemcached->new;
    $m->memcached_server_add('127.0.0.1', $port);
    $m->memcached_behavior_set(Memcached::libmemcached::MEMCACHED_BEHAVIOR_BINARY_PROTOCOL(), $protocol eq 'binary');
    $m->memcached_behavior_set(Memcached::libmemcached::MEMCACHED_BEHAVIOR_POLL_TIMEOUT(), 120000);
    $do_it = sub {
        my ($verb, $key, $value, %more) = @_;
        my $call = {incr => 'increment', decr => 'decrement'}->{$verb} || $verb;
        $call = "memcached_$call";
        if ($verb =~ /cr$/) {
            my $new = 0;
            return $m->$call($key, $value, $new) ? $new : undef;
        }
        return $verb eq 'get' || $verb eq 'delete' ? $m->$call($key) : $m->$call($key, $value, $more{expire} || 0, 0);
    };
    $multi = sub { $m->mget_into_hashref([@_], \my %got); \%got };
}

my $flash_value = sub { my $i = shift; chr(33 + $i * 7 % 90) x (300 + $i * 37 % 4000) . $i };
if ($phase) {
    for my $i (0 .. 499) {
        check("$phase $i", $phase eq 'store' ? $do_it->('set', "flash-$i", $flash_value->($i))
                                             : is($do_it->('get', "flash-$i"), $flash_value->($i)));
    }
    exit 0;
}

check('set', $do_it->('set', 'a', 'one') && is($do_it->('get', 'a'), 'one'));
check('get missing', !defined $do_it->('get', 'missing'));
check('add over', !$do_it->('add', 'a', 'x'));
check('add', $do_it->('add', 'b', 'two'));
check('replace missing', !$do_it->('replace', 'missing', 'x'));
check('replace', $do_it->('replace', 'b', 'three'));
check('append', $do_it->('append', 'b', '!') && $do_it->('prepend', 'b', '>'));
check('appended', is($do_it->('get', 'b'), '>three!'));
check('delete', $do_it->('delete', 'b') && !$do_it->('delete', 'b'));
check('number', $do_it->('set', 'n', 10));
check('incr', $do_it->('incr', 'n', 5) == 15);
check('decr', $do_it->('decr', 'n', 20) == 0);
check('incr missing', !$do_it->('incr', 'missing', 1));
check('brief', $do_it->('set', 'brief', 'x', expire => 1));
for (my $end = time + 120; defined $do_it->('get', 'brief'); sleep 0.02) {
    check('waited in vain', time < $end);
}
for my $i (1 .. 300) { check("set many $i", $do_it->('set', "many-$i", $flash_value->($i))); }
my $got = $multi->((map { "many-$_" } 1 .. 300), 'never-1', 'never-2');
check('multi-get', keys %$got == 300);
for my $i (1 .. 300) { check("many $i", is($got->{"many-$i"}, $flash_value->($i))); }
my $large = 'x' x 1_000_000;
check('large', $do_it->('set', 'large', $large) && is($do_it->('get', 'large'), $large));
print "$module, $protocol: all answers as from memcached\n";
