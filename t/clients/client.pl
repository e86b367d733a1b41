# client.pl MODULE PORT: Cache::Memcached::Fast, ::Fast::Safe or Cache::Memcached against the server; dies
# at the first wrong answer. What a module doesn't have isn't asked for.
use strict;
use warnings;
use Time::HiRes qw(time sleep);

my ($module, $port) = @ARGV;
my $fast = $module =~ /::Fast/;

sub check { my ($what, $ok) = @_; die "$module: $what\n" unless $ok; }
sub wait_until {
    my ($condition) = @_;
    my $end = time + 120;
    until ($condition->()) { check('waited in vain', time < $end); sleep 0.02; }
}
sub is { my ($got, $wanted) = @_; return defined $got && $got eq $wanted; }

eval "require $module" or die $@;
my $m = $module->new({
    servers => ["127.0.0.1:$port"],
    $fast ? (io_timeout => 120, max_size => 4 << 20) : (select_timeout => 120),
});

check('set', $m->set('a', 'one'));
check('get', is($m->get('a'), 'one'));
check('get missing', !defined $m->get('missing'));
check('add over', !$m->add('a', 'x'));
check('add', $m->add('b', 'two'));
check('replace missing', !$m->replace('missing', 'x'));
check('replace', $m->replace('b', 'three'));
check('append', $m->append('b', '!'));
check('prepend', $m->prepend('b', '>'));
check('appended', is($m->get('b'), '>three!'));
check('delete', $m->delete('b'));
check('delete again', !$m->delete('b'));
my $noise = join '', map { chr } 0 .. 255;
check('noise', $m->set('noise', $noise) && is($m->get('noise'), $noise));

check('number', $m->set('n', 10));
check('incr', $m->incr('n', 5) == 15);
check('decr', $m->decr('n', 20) == 0);
check('incr missing', !$m->incr('missing', 1));

if ($fast) {
    check('cas set', $m->set('c', 'one'));
    my $got = $m->gets('c');
    check('gets', is($got->[1], 'one'));
    check('cas', $m->cas('c', $got->[0], 'two'));
    check('bad cas', !$m->cas('c', $got->[0], 'three'));
    check('after cas', is($m->get('c'), 'two'));
    wait_until(sub { $m->set('later', 'x', 1) && $m->touch('later', 1000) }); # again, if a second has passed in between
    check('touch missing', !$m->touch('missing', 5));
    check('gat', is($m->gat(2000, 'a'), 'one'));
    check('gats', is($m->gats(2000, 'a')->[1], 'one'));
    check('gat missing', !defined $m->gat(5, 'missing'));
    $m->nowait_push;
}
check('brief', $m->set('brief', 'x', 1));
wait_until(sub { !defined $m->get('brief') });
check('gone', $m->set('gone', 'x', 1));
wait_until(sub { !defined $m->get('gone') });
check('touched', is($m->get('later'), 'x')) if $fast;

srand 1;
my %many = map { ("many-$_" => chr(rand 256) x (1 + rand 3000) . $_) } 1 .. 1000;
$m->set($_, $many{$_}) or check("set $_", 0) for keys %many;
my $got = $m->get_multi(keys %many, map { "never-$_" } 1 .. 50);
check('get_multi: how many', keys %$got == 1000);
check("get_multi: $_", is($got->{$_}, $many{$_})) for keys %many;
if ($fast) {
    my $tokens = $m->gets_multi(keys %many);
    check('gets_multi', keys %$tokens == 1000);
    my $stored = $m->set_multi(map { [$_, "again-$_"] } 1 .. 300);
    check('set_multi', !grep { !$_ } values %$stored);
}

for my $size (500_000, 1 << 20, 3_000_000) {
    my $value = join '', map { chr(rand 256) } 1 .. 1000;
    $value = substr($value x ($size / 1000 + 1), 0, $size);
    check("set $size", $m->set('big', $value));
    check("get $size", is($m->get('big'), $value));
}
check('server_versions', (values %{ $m->server_versions })[0] =~ /^\d+\.\d+\.\d+$/) if $fast;
check('stats', $m->stats('misc')->{total}{cmd_set} > 0) unless $fast;
check('flush', $m->flush_all);
check('flushed', !defined $m->get('a'));
check('after flush', $m->set('a', 'x') && is($m->get('a'), 'x'));
print "$module: all answers as from memcached\n";
