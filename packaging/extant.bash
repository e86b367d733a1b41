# bash completion for extant: options and -o suboptions as the program itself names them.
_extant()
{
    local program=${EXTANT_COMPLETE:-${COMP_WORDS[0]}} word=${COMP_WORDS[COMP_CWORD]}
    local before='' help last
    [ "$COMP_CWORD" -gt 0 ] && before=${COMP_WORDS[COMP_CWORD - 1]}
    case $before in
    -e | -s | -P | -Y | --memory-file | --unix-socket | --pidfile | --auth-file | --config | --logfile)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    -u | --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$word")
        return
        ;;
    esac
    help=$("$program" -h 2>/dev/null) || return
    if [ "$before" = -o ] || [ "$before" = --extended ]; then
        last=${word##*,}
        mapfile -t COMPREPLY < <(compgen -W "$(sed -n 's/^   - \([a-z0-9_]*\):.*/\1=/p' <<<"$help")" \
                                     -P "${word%"$last"}" -- "$last")
        compopt -o nospace 2>/dev/null
    else
        mapfile -t COMPREPLY < <(compgen -W "$(sed -nE 's/^(-[A-Za-z], )?(--[a-z_-]+).*/\2/p' <<<"$help")" -- "$word")
    fi
}
complete -F _extant extant
